-- Wait until nobody uses a segment below the log start any more, so that what comes after need not wait for it with locks on
-- what others use.
--
-- lock_timeout_ms  how long: autovacuum gives way when that is longer than deadlock_timeout
-- returns whether nobody does
-- transaction  short, and its own
-- locks   ACCESS EXCLUSIVE on the segment: whoever reads it meanwhile, by its name or through a view, waits too
create or replace function pgq._clear_segment(partition_id int, base_offset bigint, lock_timeout_ms int)
returns boolean
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = 0
as $$
declare
    leaf text;
begin
    select pgq._segment_name(p.topic_id, p.partition, s.base_offset) into leaf
      from pgq.partition p join pgq.segment s using (partition_id)
     where p.partition_id = _clear_segment.partition_id and s.base_offset = _clear_segment.base_offset
       and s.end_offset <= p.log_start_offset;
    if found and to_regclass(leaf) is not null then
        perform set_config('lock_timeout', lock_timeout_ms::text, true);
        execute format('lock table %s in access exclusive mode', leaf);
    end if;
    return true;
exception
    when lock_not_available then
        return false;
    when undefined_table or internal_error then
        return true;  -- gone
end
$$;
