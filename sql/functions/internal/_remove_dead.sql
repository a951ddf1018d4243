-- Remove the members of a group whose sessions have ended. A static member stays for its session timeout, for it to come
-- back; the first who finds it dead notes when.
--
-- returns whether anybody was removed. The caller raises the generation
-- locks   the caller holds the group's row. Alive locks, only tried, until the end of the transaction
create or replace function pgq._remove_dead(consumer_group_id int)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    member pgq.group_member;
    removed boolean := false;
begin
    for member in
        select m.* from pgq.group_member m where m.consumer_group_id = _remove_dead.consumer_group_id order by m.member_id
    loop
        continue when pgq._is_alive(member.member_id);
        if member.group_instance_id is null
           or member.dead_since < clock_timestamp() - member.session_timeout_ms * interval '1 millisecond' then
            delete from pgq.group_member m where m.member_id = member.member_id;
            removed := true;
        elsif member.dead_since is null then
            update pgq.group_member m set dead_since = clock_timestamp() where m.member_id = member.member_id;
        end if;
    end loop;
    return removed;
end
$$;
