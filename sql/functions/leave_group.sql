-- Leave a consumer group: the others take over this member's partitions at once. Commit before.
--
-- A static member that is only restarted does not call this, but ends its session.
-- transaction  the locks go at once, the member with the caller's commit; then the session has the timeouts again that it had before
--              it joined
-- locks   the group's row
create or replace function pgq.leave_group(member_id bigint)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int;
begin
    if pgq._member_key(member_id) = any (pgq._held_keys(25)) is not true then
        return;  -- it is another session's member
    end if;
    perform pg_advisory_unlock(k.key) from unnest(pgq._held_keys(26) || pgq._held_keys(31) || pgq._member_key(member_id)) k (key);
    perform pgq._restore_session_timeouts();
    select m.consumer_group_id into id from pgq.group_member m where m.member_id = leave_group.member_id;
    if found then
        perform from pgq.consumer_group g where g.consumer_group_id = id for no key update;
        delete from pgq.group_member m where m.member_id = leave_group.member_id;
        perform pgq._bump(id);
    end if;
end
$$;
