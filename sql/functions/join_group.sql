-- Join a consumer group: this session is a member from now on, for as long as it lives and sends something now and then.
--
-- Then: read pgq.group_assignment, work out which partitions are this member's, pgq.claim_partitions, pgq.fetch,
-- pgq.commit_offsets, all on this session; pgq.heartbeat at least every third of the session timeout, and again from the
-- assignment whenever that returns another generation; pgq.leave_group at the end.
--
-- topics              what the member reads; those that do not exist yet are found later
-- assignor            how partitions are shared out; all members of a group must name the same
-- session_timeout_ms  1,000 to 1,800,000: how long the session may be silent. The server ends it then
-- group_instance_id   makes the member static: a session with the same id takes its place, and while the session is gone its
--                     partitions wait for session_timeout_ms; or null
-- client_id           shown in pgq.member_status
-- previous_member_id  of a static member whose session was lost: if another has taken its place since, it is refused. Null takes
--                     the place
-- returns member_id; generation; channel, to LISTEN to: notified when the group changes
-- transaction  of its own. The session must not be shared by a pooler, and is one member at most: it leaves first where it is
--              one already
-- locks   the group's row; the member's alive lock and, later, its claims: the session's, until it ends
-- raises  PQ019 (InvalidGroupIdError), PQ023 (InvalidRequestError), PQ037 (InconsistentGroupProtocolError),
--         PQ038 (FencedInstanceIdError)
create or replace function pgq.join_group(
    group_id text, topics text[], assignor text default 'range', session_timeout_ms int default 45000,
    group_instance_id text default null, client_id text default '', previous_member_id bigint default null,
    out member_id bigint, out generation bigint, out channel text)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    team pgq.consumer_group;
    earlier pgq.group_member;
    changed boolean;
begin
    perform pgq._check_group_id(group_id);
    if session_timeout_ms is null or session_timeout_ms not between 1000 and 1800000 then
        raise exception 'a session timeout of % ms', coalesce(session_timeout_ms::text, 'NULL')
            using errcode = 'PQ023', hint = 'Give 1,000 to 1,800,000.';
    end if;
    if length(group_instance_id) not between 1 and 249 then
        raise exception 'a group_instance_id of % characters', length(group_instance_id) using errcode = 'PQ023', hint = 'Give 1 to 249.';
    end if;
    if coalesce(assignor, '') = '' or topics is null or array_position(topics, null) is not null then
        raise exception 'join_group without an assignor or topics' using errcode = 'PQ023', hint = 'Name both.';
    end if;
    perform pgq.leave_group(k.key & (1::bigint << 58) - 1) from unnest(pgq._held_keys(25)) k (key);
    -- random, since a number from a sequence could be given out again after a failover. Below 2^53, as JSON has it
    member_id := ('x' || substr(translate(gen_random_uuid()::text, '-', ''), 1, 13))::bit(52)::bigint;
    perform pg_advisory_lock(pgq._member_key(member_id));
    perform pgq._group(group_id);
    -- no key update: every commit of offsets holds the row by its foreign key, to the end of the application's transaction
    select g.* into team from pgq.consumer_group g where g.name = join_group.group_id for no key update;
    if not found then
        raise exception 'group % was deleted meanwhile', quote_literal(group_id) using errcode = 'serialization_failure', hint = 'Join again.';
    end if;
    if exists (select from pgq.group_member m
                where m.consumer_group_id = team.consumer_group_id and m.group_instance_id = join_group.group_instance_id
                  and m.member_id <> previous_member_id) then
        raise exception 'another member of group % has group_instance_id % by now', quote_literal(group_id), quote_literal(group_instance_id)
            using errcode = 'PQ038', hint = 'Let it be the only one, or give each its own.';
    end if;
    changed := pgq._remove_dead(team.consumer_group_id);
    delete from pgq.group_member m
     where m.consumer_group_id = team.consumer_group_id and m.group_instance_id = join_group.group_instance_id
    returning m.* into earlier;
    if team.assignor is distinct from assignor then
        if exists (select from pgq.group_member m where m.consumer_group_id = team.consumer_group_id) then
            raise exception 'group % shares out by %, not by %', quote_literal(group_id), team.assignor, assignor
                using errcode = 'PQ037', hint = 'Give all its members the same partition_assignment_strategy.';
        end if;
        update pgq.consumer_group g set assignor = join_group.assignor where g.consumer_group_id = team.consumer_group_id;
    end if;
    insert into pgq.group_member (member_id, consumer_group_id, group_instance_id, client_id, topics, topology, session_timeout_ms,
                                  pid, client_addr)
    values (join_group.member_id, team.consumer_group_id, join_group.group_instance_id, coalesce(join_group.client_id, ''), join_group.topics,
            pgq._topology(join_group.topics), join_group.session_timeout_ms, pg_backend_pid(), inet_client_addr());
    if earlier.member_id is not null and not changed and earlier.topics = topics then
        generation := team.generation;  -- it has the same partitions as before, and so has everybody else
        perform pgq._wake_group(team.consumer_group_id);
    else
        generation := pgq._bump(team.consumer_group_id);
    end if;
    channel := concat('pgq_group_', team.consumer_group_id);
    perform pgq._set_session_timeouts(session_timeout_ms);
end
$$;
