-- Leave a consumer group: the others take over this member's partitions at once. Commit before.
--
-- A static member that is only restarted does not call this, but ends its session.
-- transaction  the locks go at once, the member with the caller's commit
-- locks   the group's row
create or replace function pgq.leave_group(member_id bigint)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int;
    held record;
begin
    for held in
        select (l.classid::bigint << 32) | l.objid::bigint as key from pg_locks l
         where l.locktype = 'advisory' and l.objsubid = 1 and l.pid = pg_backend_pid() and l.mode = 'ExclusiveLock'
           and (l.classid::bigint >> 26 = 26
                or (l.classid::bigint << 32) | l.objid::bigint = pgq._member_key(leave_group.member_id))
    loop
        perform pg_advisory_unlock(held.key);
    end loop;
    select m.consumer_group_id into id from pgq.group_member m where m.member_id = leave_group.member_id;
    if found then
        perform from pgq.consumer_group g where g.consumer_group_id = id for update;
        delete from pgq.group_member m where m.member_id = leave_group.member_id;
        perform pgq._bump(id);
    end if;
end
$$;
