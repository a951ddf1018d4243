-- Say that a member lives, and see whether its group has changed. Looks after the member before it in the group, too: if its
-- session has ended, it is removed, unless it joins again within 0.2 s, which this waits.
--
-- count_claims  whether to count the claims that this session holds, and to look after all members, which takes longer
-- returns generation  of the group: if it is another than before, work out the assignment anew. Null: this is no member
--                     any more: its claims are void. Join again, unless another session took a static member's place
--         claims      how many partitions this session holds; null unless asked for
--         next_due_ms  when to call pgq.deliver_due: in so many milliseconds; null: no record waits for its time
-- transaction  any; writes only if the group changes
create or replace function pgq.heartbeat(
    member_id bigint, count_claims boolean default false, out generation bigint, out claims bigint, out next_due_ms bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    me pgq.group_member;
    other pgq.group_member;
    alive boolean;
    missing boolean := false;  -- one whose session has ended
    changed boolean := false;
begin
    if count_claims then
        claims := cardinality(pgq._held_keys(26));
    end if;
    select m.* into me from pgq.group_member m where m.member_id = heartbeat.member_id;
    if not found then
        return;
    end if;
    begin
        next_due_ms := pgq._next_due_ms();
    exception when others then
        raise warning 'delayed records: %', sqlerrm;  -- no reason to lose one's partitions
    end;
    if me.group_instance_id is not null and me.pid = pg_backend_pid() then
        perform pgq._beat(member_id, me.session_timeout_ms);
        changed := me.dead_since is not null;  -- it was silent, and is not any more
    end if;
    -- the ring: each member looks after the one before it, and where that one is dead or silent, after the one before that as well
    for other in
        (select m.* from pgq.group_member m
          where m.consumer_group_id = me.consumer_group_id and m.member_id < me.member_id order by m.member_id desc)
        union all
        (select m.* from pgq.group_member m
          where m.consumer_group_id = me.consumer_group_id and m.member_id > me.member_id order by m.member_id desc)
    loop
        alive := pgq._is_alive(other.member_id);
        missing := missing or not alive and other.group_instance_id is null;
        changed := changed or not alive and other.group_instance_id is not null;
        if alive and other.dead_since is null then
            if pgq._silent_since(other) is not null then
                changed := true;
            elsif not count_claims then
                exit;
            end if;
        end if;
    end loop;
    if missing then
        changed := pgq._await_return(array[me.consumer_group_id]) or changed;
    end if;
    if changed or me.topology <> pgq._topology(me.topics) then
        -- whoever else has seen it is about to do the same
        perform from pgq.consumer_group g where g.consumer_group_id = me.consumer_group_id for no key update skip locked;
        if found then
            update pgq.group_member m set dead_since = null
             where m.member_id = me.member_id and m.pid = pg_backend_pid() and m.dead_since is not null;
            changed := pgq._remove_dead(me.consumer_group_id);
            update pgq.group_member m set topology = pgq._topology(m.topics)
             where m.consumer_group_id = me.consumer_group_id and m.topology <> pgq._topology(m.topics);
            if found or changed then
                perform pgq._bump(me.consumer_group_id);
            end if;
        end if;
    end if;
    select g.generation into heartbeat.generation from pgq.consumer_group g where g.consumer_group_id = me.consumer_group_id;
end
$$;
