-- See that offsets just taken have segments to go to, and note in the session how far the segments reach.
-- The last resort of an append: segments are made ahead by pgq.upkeep.
--
-- partition_id               the partition
-- first_offset, last_offset  the least and the greatest offset taken
-- returns the offset at which the segments end
-- locks   as pgq._make_segment, waiting 10 s at most
-- raises  55P03 when another session holds the partition's table for that long; nothing was appended, try again
create or replace function pgq._cover_offset(partition_id int, first_offset bigint, last_offset bigint)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
    noted bigint := coalesce(nullif(current_setting('pgq.covered_' || partition_id, true), ''), '0')::bigint;
    covered bigint := case when noted > first_offset then noted else coalesce(
        (select max(s.base_offset) from pgq.segment s
          where s.partition_id = _cover_offset.partition_id and s.base_offset <= first_offset), 0) end;
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        covered := pgq._fresh_base(partition_id, covered, first_offset);
    end if;
    while covered <= last_offset loop
        covered := pgq._make_segment(partition_id, covered);
    end loop;
    -- segments only grow, so the session may keep the note. One that this transaction made, or that is younger than its
    -- snapshot, is noted for the transaction only: it may still be rolled back, if prepared even by another session
    perform set_config('pgq.covered_' || partition_id, covered::text, not exists (
        select from pgq.segment s
         where s.partition_id = _cover_offset.partition_id and s.end_offset = covered and s.created_at <> now()));
    return covered;
end
$$;
