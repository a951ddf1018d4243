-- Wait until so many servers, the leader included, have flushed the log up to here; return whether they have.
--
-- Those count that commits wait for. A record that only the leader has may be gone after a failover.
-- raises  42501 where the function's owner may not see the other servers' state
create or replace function pgq._await_replicas(flushed pg_lsn, replicas int, timeout_ms int)
returns boolean
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    give_up_at timestamptz := clock_timestamp() + timeout_ms * interval '1 millisecond';
    there int;
    hidden boolean;
begin
    loop
        select count(*) filter (where r.sync_state in ('sync', 'quorum') and r.flush_lsn >= flushed),
               bool_or(r.state is null)
          into there, hidden
          from pg_stat_replication r;
        if hidden then
            perform pgq._in_sync_replicas();  -- says so
        end if;
        if there >= replicas - 1 then
            return true;
        end if;
        if clock_timestamp() >= give_up_at then
            return false;
        end if;
        perform pg_sleep(0.001);
    end loop;
end
$$;
