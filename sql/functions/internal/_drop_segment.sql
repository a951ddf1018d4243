-- Drop a segment that lies below the log start and is no longer attached, or whose detaching was interrupted.
--
-- lock_timeout_ms  how long to wait for those who still use it, such as autovacuum at its TOAST table, which gives way when that
--                  is longer than deadlock_timeout. While a pending one is waited for, so is everybody else who wants
--                  the partition's table
-- returns whether it is gone; false: somebody uses it, or it is not to be dropped
-- transaction  short, and its own
-- locks   ACCESS EXCLUSIVE on the segment; of a pending one on the partition's table as well. Not by FINALIZE, which would wait
--         for every older snapshot in the database, whatever it reads: docs/decisions/0007
create or replace function pgq._drop_segment(partition_id int, base_offset bigint, lock_timeout_ms int default 50)
returns boolean
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = 0
as $$
declare
    leaf text;
    log_start bigint;
begin
    select pgq._segment_name(p.topic_id, p.partition, s.base_offset), p.log_start_offset into leaf, log_start
      from pgq.partition p join pgq.segment s using (partition_id)
     where p.partition_id = _drop_segment.partition_id and s.base_offset = _drop_segment.base_offset
       and s.end_offset <= p.log_start_offset;
    if not found or exists (select from pg_inherits i where i.inhrelid = to_regclass(leaf) and not i.inhdetachpending) then
        return false;
    end if;
    perform set_config('lock_timeout', lock_timeout_ms::text, true);
    execute format('drop table if exists %s', leaf);
    delete from pgq.segment s where s.partition_id = _drop_segment.partition_id and s.base_offset = _drop_segment.base_offset;
    -- the one that ends at the log start says who has not fallen behind: see pgq._least_position
    delete from pgq.skipped_range r where r.partition_id = _drop_segment.partition_id and r.to_offset < log_start;
    return true;
exception when lock_not_available then
    return false;
end
$$;
