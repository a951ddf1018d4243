-- Mark dead letters as redriven or purged; then move the log starts over what is settled from there on, and forget the marks
-- below them.
--
-- partition_ids, offsets  parallel arrays
-- transaction  READ COMMITTED only. The caller holds the DEAD LETTER locks
-- locks   the partitions' rows
create or replace function pgq._settle_dead_letters(partition_ids int[], offsets bigint[], outcome text)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    part pgq.partition;
    settled_to bigint;
begin
    insert into pgq.settled_dead_letter (partition_id, "offset", outcome)
    select n.partition_id, n."offset", _settle_dead_letters.outcome
      from unnest(_settle_dead_letters.partition_ids, _settle_dead_letters.offsets) n (partition_id, "offset");
    for part in
        select p.* from pgq.partition p where p.partition_id = any (_settle_dead_letters.partition_ids) order by p.partition_id
    loop
        settled_to := pgq._settled_to(part.partition_id);
        update pgq.partition p set log_start_offset = settled_to
         where p.partition_id = part.partition_id and p.log_start_offset < settled_to;
        delete from pgq.settled_dead_letter d
         where d.partition_id = part.partition_id
           and d."offset" < (select p.log_start_offset from pgq.partition p where p.partition_id = part.partition_id);
    end loop;
end
$$;
