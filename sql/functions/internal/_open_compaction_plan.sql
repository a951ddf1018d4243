-- Begin to find out what a pass over a partition has to do. The session that reads calls it, then
-- pgq._read_compaction_step until that returns 0, then pgq._compaction_plan. Each step looks at 16 segments, so that
-- no transaction locks all of them.
--
-- at      the time against which tombstones and records are old
-- returns false: there is nothing to compact
-- tables  makes the session's tables compaction_segment, the closed segments; compaction_offset, what is known of the
--         last offsets of keys, and compaction_key, one row a key
create or replace function pgq._open_compaction_plan(partition_id int, at timestamptz default clock_timestamp())
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
set client_min_messages = warning
as $$
#variable_conflict use_variable
declare
    part pgq.partition;
    state record;
begin
    drop table if exists pg_temp.compaction_segment, pg_temp.compaction_offset, pg_temp.compaction_key;
    select p.* into part from pgq.partition p join pgq.topic t using (topic_id)
     where p.partition_id = _open_compaction_plan.partition_id and t.state = 'ready'
       and pgq._config_value(t.topic_id, 'cleanup.policy') like '%compact%';
    if not found then
        return false;
    end if;
    state := pgq._compaction_state(part, at);
    if state.end_offset is null then
        return false;
    end if;
    create temp table compaction_segment as
        select s.base_offset, s.end_offset, s.bytes,
               pgq._segment_name(part.topic_id, part.partition, s.base_offset) as leaf,
               s.end_offset > state.clean_to as unread, state.removable_below as removable_below,
               -- of now, since what is counted and what is copied later must be the same
               part.log_start_offset as log_start_offset,
               null::bigint as records, null::bigint as kept, null::bigint as tombstones
          from pgq.segment s
         where s.partition_id = part.partition_id and s.end_offset > part.log_start_offset
           and s.end_offset <= state.end_offset;
    -- without an index: a key may be longer than one can hold, and it is joined by its hash anyway
    create temp table compaction_offset (key bytea, last_offset bigint);
    create temp table compaction_key (key bytea, last_offset bigint);
    return true;
end
$$;
