-- Remove the members of a group whose sessions have ended. A static member stays for its session timeout, for it to come back,
-- counted from its last sign of life: if it was silent before, that has been noted while its session lived; else it is when the first
-- finds it dead.
--
-- returns whether anybody was removed. The caller raises the generation
-- locks   the caller holds the group's row
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
        if pgq._is_alive(member.member_id) then
            if member.dead_since is null then
                member.dead_since := pgq._silent_since(member);
                if member.dead_since is not null then
                    update pgq.group_member m set dead_since = member.dead_since where m.member_id = member.member_id;
                end if;
            end if;
        elsif member.group_instance_id is null
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
