-- Note that a pass over a partition is complete, and give the partition back. The session that wrote calls it.
--
-- end_offset  how far it went; null: it is not complete, nothing is noted
-- at          the time of the pass
-- tombstones  how many remain
-- tables  inserts into pgq.compaction and deletes what no longer matters there: of the passes delete.retention.ms ago
--         only the last one says which tombstones may go, and those have gone
create or replace function pgq._end_compaction(partition_id int, end_offset bigint, at timestamptz, tombstones bigint)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition;
    removable_below bigint;
begin
    select p.* into part from pgq.partition p where p.partition_id = _end_compaction.partition_id for key share;
    if not found or end_offset is null then
        perform pg_advisory_unlock(pgq._compaction_key(partition_id));
        return;
    end if;
    removable_below := (pgq._compaction_state(part, at)).removable_below;
    insert into pgq.compaction as c (partition_id, clean_to, cleaned_at, tombstones)
    values (_end_compaction.partition_id, _end_compaction.end_offset, _end_compaction.at, _end_compaction.tombstones)
        on conflict on constraint compaction_pkey do nothing;
    delete from pgq.compaction c where c.partition_id = part.partition_id and c.clean_to < removable_below;
    update pgq.compaction c
       set tombstones = case when c.clean_to = removable_below then 0
                             else least(c.tombstones, _end_compaction.tombstones) end
     where c.partition_id = part.partition_id;
    perform pg_advisory_unlock(pgq._compaction_key(partition_id));
end
$$;
