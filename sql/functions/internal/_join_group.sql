-- Join a consumer group, as pgq.join_group, which ends the session that is replaced.
--
-- returns member_id, generation, channel  as pgq.join_group
--         replaced  the pid of the session that was this static member and lives; null: there is none
create or replace function pgq._join_group(
    group_id text, topics text[], assignor text, session_timeout_ms int, group_instance_id text, client_id text,
    previous_member_id bigint, out member_id bigint, out generation bigint, out channel text, out replaced int)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    id int;
    team pgq.consumer_group;
    earlier pgq.group_member;
    topology bigint;
    changed boolean;
    previous bigint := case when group_instance_id is null and previous_member_id between 0 and (1::bigint << 52) - 1 then previous_member_id end;
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
    -- the client may be here before the server has ended its earlier session
    for attempt in 1 .. 20 loop
        exit when previous is null or not pgq._is_alive(previous);
        perform pg_sleep(0.01);
    end loop;
    id := pgq._group(group_id);
    member_id := pgq._take_member_id(id, previous);
    if member_id is null then
        -- random, since a number from a sequence could be given out again after a failover. Below 2^52, as JSON has it
        member_id := ('x' || substr(translate(gen_random_uuid()::text, '-', ''), 1, 13))::bit(52)::bigint;
        perform pg_advisory_lock(pgq._member_key(member_id));
    end if;
    begin
        -- its own lock is taken: others that have lost their sessions as well wait for it in the same way
        perform pgq._await_return(array[id]);
        -- no key update: every commit of offsets holds the row by its foreign key, to the end of the application's transaction
        select g.* into team from pgq.consumer_group g where g.name = _join_group.group_id for no key update;
        if not found then
            raise exception 'group % was deleted meanwhile', quote_literal(group_id) using errcode = 'serialization_failure', hint = 'Join again.';
        end if;
        if exists (select from pgq.group_member m
                    where m.consumer_group_id = team.consumer_group_id and m.group_instance_id = _join_group.group_instance_id
                      and m.member_id <> previous_member_id) then
            raise exception 'another member of group % has group_instance_id % by now', quote_literal(group_id), quote_literal(group_instance_id)
                using errcode = 'PQ038', hint = 'Let it be the only one, or give each its own.';
        end if;
        changed := pgq._remove_dead(team.consumer_group_id);
        delete from pgq.group_member m
         where m.consumer_group_id = team.consumer_group_id
           and (m.group_instance_id = _join_group.group_instance_id or m.member_id = _join_group.member_id)
        returning m.* into earlier;
        if team.assignor is distinct from assignor then
            if exists (select from pgq.group_member m where m.consumer_group_id = team.consumer_group_id) then
                raise exception 'group % shares out by %, not by %', quote_literal(group_id), team.assignor, assignor
                    using errcode = 'PQ037', hint = 'Give all its members the same partition_assignment_strategy.';
            end if;
            update pgq.consumer_group g set assignor = _join_group.assignor where g.consumer_group_id = team.consumer_group_id;
        end if;
        topology := pgq._topology(topics);
        insert into pgq.group_member (member_id, consumer_group_id, group_instance_id, client_id, topics, topology, session_timeout_ms,
                                      pid, client_addr)
        values (_join_group.member_id, team.consumer_group_id, _join_group.group_instance_id, coalesce(_join_group.client_id, ''), _join_group.topics,
                topology, _join_group.session_timeout_ms, pg_backend_pid(), inet_client_addr());
        if earlier.member_id is not null and not changed and earlier.topics = topics and earlier.topology = topology then
            generation := team.generation;  -- it has the same partitions as before, and so has everybody else
            perform pgq._wake_group(team.consumer_group_id);
        else
            generation := pgq._bump(team.consumer_group_id);
        end if;
        channel := concat('pgq_group_', team.consumer_group_id);
        if group_instance_id is not null then
            perform pgq._beat(member_id, session_timeout_ms);
            -- a number of a process may be another's by now: it is the holder of the alive lock that is meant
            select l.pid into replaced from pgq._group_locks() l where l.member_id = earlier.member_id and l.pid = earlier.pid;
        end if;
        perform pgq._set_session_timeouts(session_timeout_ms);
    exception when query_canceled or others then
        perform pg_advisory_unlock(pgq._member_key(member_id));  -- the member that it was is dead still
        raise;
    end;
end
$$;
