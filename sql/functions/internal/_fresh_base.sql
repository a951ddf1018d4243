-- Where the segment begins that an offset belongs to or comes after, for a transaction whose snapshot may show segments that
-- retention has dropped or compaction has merged since. Without a look at the tree if the one that it shows is there.
--
-- base    what the snapshot says
-- locks   none that outlive the look
create or replace function pgq._fresh_base(partition_id int, base bigint, "offset" bigint)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition;
    result bigint := base;
begin
    select p.* into strict part from pgq.partition p where p.partition_id = _fresh_base.partition_id;
    if to_regclass(pgq._segment_name(part.topic_id, part.partition, base)) is null then
        begin
            -- fresh in every isolation level, as catalogs read by SQL are not
            select max(substring(r.name from '_s(\d+)$')::bigint) into result
              from (select t.relid::regclass::text as name
                      from pg_partition_tree(format('pgq_log.t%s_p%s', part.topic_id, part.partition)::regclass) t where t.isleaf) r
             where substring(r.name from '_s(\d+)$')::bigint <= "offset";
            raise exception 'taken back' using errcode = 'triggered_action_exception';
        exception when triggered_action_exception then
            null;  -- the locks on all segments are gone, the variable stays
        end;
    end if;
    return coalesce(result, base);
end
$$;
