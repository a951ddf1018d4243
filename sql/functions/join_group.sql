-- Join a consumer group: this session is a member from now on, for as long as it lives and sends something now and then.
--
-- Then: read pgq.group_assignment, work out which partitions are this member's, pgq.claim_partitions, pgq.fetch,
-- pgq.commit_offsets, all on this session; pgq.heartbeat at least every third of the session timeout, and again from the
-- assignment whenever that returns another generation; pgq.leave_group at the end.
--
-- topics              what the member reads; those that do not exist yet are found later
-- assignor            how partitions are shared out; all members of a group must name the same
-- session_timeout_ms  1,000 to 1,800,000: how long the session may be silent. The server ends it then
-- group_instance_id   makes the member static: a session with the same id takes its place, and ends its session if that still lives;
--                     while the session is gone its partitions wait for session_timeout_ms from its last sign of life; or null
-- client_id           shown in pgq.member_status
-- previous_member_id  of a member whose session was lost. It is the same member again, and has the same partitions, if it was one of
--                     this group and its session has ended; else a new one. A static member is refused if another has taken its
--                     place since; null takes the place
-- returns member_id; generation; channel, to LISTEN to: notified when the group changes
-- transaction  of its own. The session must not be shared by a pooler, and is one member at most: it leaves first where it is
--              one already. Ends the other session of a static member with the caller's rights: where they do not suffice, that is
--              left, and keeps its partitions until it notices or falls silent
-- locks   the group's row; the member's alive lock and, later, its claims: the session's, until it ends
-- raises  PQ019 (InvalidGroupIdError), PQ023 (InvalidRequestError), PQ037 (InconsistentGroupProtocolError),
--         PQ038 (FencedInstanceIdError)
create or replace function pgq.join_group(
    group_id text, topics text[], assignor text default 'range', session_timeout_ms int default 45000,
    group_instance_id text default null, client_id text default '', previous_member_id bigint default null,
    out member_id bigint, out generation bigint, out channel text)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    replaced int;
begin
    select j.member_id, j.generation, j.channel, j.replaced into join_group.member_id, join_group.generation, join_group.channel, replaced
      from pgq._join_group(group_id, topics, assignor, session_timeout_ms, group_instance_id, client_id, previous_member_id) j;
    -- waited for, so that its claims are free when this returns
    perform pg_terminate_backend(a.pid, 1000) from pg_stat_activity a where a.pid = replaced and pgq._may_end(a.usesysid);
end
$$;
