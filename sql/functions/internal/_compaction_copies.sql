-- Copies of segments that a compaction has made and not put in place: one that runs, or one that was killed.
--
-- partition_id  of which partition; null: of all
create or replace function pgq._compaction_copies(partition_id int default null)
returns table (partition_id int, name text)
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select p.partition_id, 'pgq_log.' || c.relname
      from (select c.relname::text, regexp_match(c.relname, '^t(\d+)_p(\d+)_s\d+_compacting$') as ids
              from pg_class c
             where c.relnamespace = 'pgq_log'::regnamespace and c.relkind = 'r' and c.relname like 't%\_compacting') c
      join pgq.partition p on p.topic_id::text = c.ids[1] and p.partition::text = c.ids[2]
     where _compaction_copies.partition_id is null or p.partition_id = _compaction_copies.partition_id
$$;
