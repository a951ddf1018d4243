-- Become the one session that does a kind of maintenance, or see that it still is.
--
-- jobs                a number a kind: 1 segments, 2 retention, 3 compaction, 4 delivery
-- session_timeout_ms  for how long the session may be silent: then the server ends it, and another one leads
-- returns whether this session leads, until it ends
-- locks   LEADER, exclusive and the session's: tag 27 (6 bits), jobs
create or replace function pgq._lead(jobs int, session_timeout_ms int)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    key bigint := (27::bigint << 58) | jobs;
begin
    if key = any (pgq._held_keys(27)) then
        return true;
    end if;
    if not pg_try_advisory_lock(key) then
        return false;
    end if;
    perform pgq._set_session_timeouts(session_timeout_ms);
    return true;
end
$$;
