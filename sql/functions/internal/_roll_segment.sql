-- End a partition's active segment: the sequence jumps to the start of the next one, which must exist.
--
-- partition_id     the partition
-- lock_timeout_ms  how long to wait for open transactions that took offsets
-- returns true if it jumped, false if there was nothing to do or the wait was too long
-- locks   the sequence SHARE ROW EXCLUSIVE until the transaction ends, so call it in a transaction of its own: takers
--         of offsets wait meanwhile
-- tables  inserts into pgq.skipped_range
create or replace function pgq._roll_segment(partition_id int, lock_timeout_ms int default 10)
returns boolean
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = 0
as $$
declare
    part pgq.partition;
    next_offset bigint;
    boundary bigint;
begin
    if lock_timeout_ms is null or lock_timeout_ms < 1 then
        raise exception 'lock_timeout_ms must be at least 1, not %', coalesce(lock_timeout_ms::text, 'NULL')
            using errcode = 'invalid_parameter_value', hint = 'Without a bound every producer of the partition would wait, too.';
    end if;
    select p.* into strict part from pgq.partition p where p.partition_id = _roll_segment.partition_id;
    perform set_config('lock_timeout', lock_timeout_ms || 'ms', true);
    begin
        -- the one ALTER SEQUENCE that waits for open takers of offsets and rewrites nothing
        execute format('alter sequence %s owned by none', part.sequence);
    exception when lock_not_available or deadlock_detected then
        -- the latter: two sessions that have looked at the sequence want to roll it
        return false;
    end;
    next_offset := pgq._next_offset(part.sequence);
    select s.end_offset into boundary
      from pgq.segment s
     where s.partition_id = part.partition_id and s.base_offset < next_offset and next_offset < s.end_offset
       and exists (select from pgq.segment n where n.partition_id = s.partition_id and n.base_offset = s.end_offset);
    if not found then
        return false;
    end if;
    perform setval(part.sequence, boundary - 1);
    insert into pgq.skipped_range (partition_id, from_offset, to_offset) values (partition_id, next_offset, boundary);
    return true;
end
$$;
