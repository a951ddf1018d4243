-- End the sessions of a group's members that have been busy with one statement for longer than their session timeout: the
-- server ends the idle ones itself, but not one that waits for a standby or for a client that has stopped reading.
--
-- member_id  of the caller; its own session is left alone
-- returns how many were told to end
-- transaction  none of its own. Runs with the caller's rights: what it cannot see or end, it leaves. Members of one group
--              should have one role, or pg_signal_backend and pg_read_all_stats
create or replace function pgq.end_stuck_members(member_id bigint)
returns bigint
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select count(pg_terminate_backend(a.pid))
      from pgq._busy_members(end_stuck_members.member_id) m
      join pg_stat_activity a on a.pid = m.pid
       -- the superuser's sessions, and those of roles that this one is no member of, are not its to end
     where pgq._may_end(a.usesysid)
       and a.state = 'active' and a.query_start < clock_timestamp() - m.session_timeout_ms * interval '1 millisecond'
$$;
