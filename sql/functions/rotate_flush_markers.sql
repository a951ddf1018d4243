-- Forget the oldest markers of flushes, if the last rotation is long enough ago.
--
-- every    how long ago: at least twice the delivery_timeout_ms of producers, since a marker is kept for two rotations
-- returns whether it rotated
-- transaction  short, and its own: it empties a table
-- locks   ACCESS EXCLUSIVE on the slot that is used next, in which no producer writes; gives up after lock_timeout
create or replace function pgq.rotate_flush_markers(every interval default '1 hour')
returns boolean
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    next_rotation bigint;
begin
    select r.rotation + 1 into next_rotation from pgq.flush_rotation r
     where r.rotated_at <= clock_timestamp() - every for update skip locked;
    if not found then
        return false;
    end if;
    -- three rotations old: flushes begun again are refused from two on
    execute format('truncate pgq.flush_marker_%s', next_rotation & 3);
    update pgq.flush_rotation set rotation = next_rotation, rotated_at = clock_timestamp();
    return true;
end
$$;
