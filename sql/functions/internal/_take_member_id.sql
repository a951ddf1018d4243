-- Be the same member of a group again, after its session was lost: with the same name it has the same partitions.
--
-- returns the member_id; null if another session holds the alive lock, or it is a static member or one of another group
-- transaction  any: only who holds the alive lock writes a row of that member
-- locks   the member's alive lock, the session's, if it returns the member_id
create or replace function pgq._take_member_id(consumer_group_id int, member_id bigint)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    key bigint := pgq._member_key(member_id);
begin
    for attempt in 1 .. 5 loop
        if pg_try_advisory_lock(key) then
            if not exists (
                   select from pgq.group_member m
                    where m.member_id = _take_member_id.member_id
                      and (m.consumer_group_id <> _take_member_id.consumer_group_id or m.group_instance_id is not null)) then
                return member_id;
            end if;
            perform pg_advisory_unlock(key);
            return null;
        end if;
        exit when member_id is null;
        perform pg_sleep(0.002);  -- somebody may be looking whether it lives
    end loop;
    return null;
end
$$;
