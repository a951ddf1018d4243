-- The SELECT of what compaction keeps of some segments, in order, for COPY: records that no later one of their key
-- follows, and those without a key; none below the log start of when the plan was opened. Needs the session's tables, see
-- pgq._open_compaction_plan.
--
-- bases            the segments' base offsets
-- removable_below  tombstones below it are left out
-- columns  those of pgq.core.copy, in that order
create or replace function pgq._compaction_survivors(partition_id int, bases bigint[], removable_below bigint)
returns text
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    -- joined at once, not one segment after the other: each join would keep the keys in memory until the end
    select format('select s.partition, s."offset", s."timestamp", s.key, s.value, s.header_keys, s.header_values, s.codec'
                  '  from (%s) s'
                  ' where not exists (select from pg_temp.compaction_key k'
                  '                    where k.key = s.key and k.last_offset > s."offset")'
                  '   and s."offset" >= (select min(c.log_start_offset) from pg_temp.compaction_segment c)'
                  '   and not (%s)'
                  ' order by s."offset"',
                  string_agg(format('select * from %s', pgq._segment_name(p.topic_id, p.partition, b.base)), ' union all '),
                  pgq._removable(removable_below))
      from pgq.partition p, unnest(bases) b (base)
     where p.partition_id = _compaction_survivors.partition_id
$$;
