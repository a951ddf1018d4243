-- Park a reader that has found nothing: appends to these topics notify from now on, on the channel pgq_<topic_id>.
--
-- Rule: LISTEN, committed; park; read once more, in a later statement; only then sleep, and now and then look again.
-- An append has tried the lock, shared, before it committed, and holds it until then. So either it failed and notifies, or
-- it succeeded before this did, and what it appended is seen by what reads after this.
--
-- interrupted  whether an earlier call may have left locks that the caller does not know of: they are looked for
-- returns held: the topics whose lock this session has now, to be given to pgq._unpark. Another reader's serves as well.
--         busy: appends are in flight; nothing is held, read again soon
-- transaction  none of its own; a session's locks outlive it. Never through a pooler that shares sessions
-- locks   PARK, exclusive, of the session; never waits
create or replace function pgq._park(topic_ids int[], interrupted boolean default false, out held int[], out busy boolean)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int;
    mine bigint[] := case when interrupted then pgq._held_keys(24) else '{}' end;
begin
    held := '{}';
    busy := false;
    foreach id in array topic_ids loop
        -- what an interrupted call has taken already is not taken twice, since locks of a session count
        if pgq._park_key(id) = any (mine) or pg_try_advisory_lock(pgq._park_key(id)) then
            held := held || id;
        elsif pg_try_advisory_lock_shared(pgq._park_key(id)) then
            -- nobody is parked: it is appends that are in the way
            perform pg_advisory_unlock_shared(pgq._park_key(id));
            busy := true;
            perform pgq._unpark(held, true);
            held := '{}';
            return;
        end if;
    end loop;
end
$$;
