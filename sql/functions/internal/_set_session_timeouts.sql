-- Let the server end this session when its client falls silent for so long, wherever the session then is: idle, in a
-- transaction, or sending to a host that is gone. What it had before is kept for pgq._restore_session_timeouts.
create or replace function pgq._set_session_timeouts(session_timeout_ms int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    seconds text := greatest(1, session_timeout_ms / 4000);
begin
    if coalesce(current_setting('pgq.timeouts_before', true), '') = '' then
        perform set_config('pgq.timeouts_before', jsonb_object_agg(s.name, current_setting(s.name))::text, false)
           from unnest(pgq._session_timeouts()) s (name);
    end if;
    perform set_config('idle_session_timeout', session_timeout_ms::text, false),
            set_config('idle_in_transaction_session_timeout', session_timeout_ms::text, false),
            set_config('tcp_keepalives_idle', seconds, false),
            set_config('tcp_keepalives_interval', seconds, false),
            set_config('tcp_keepalives_count', '3', false),
            set_config('tcp_user_timeout', session_timeout_ms::text, false);
    begin
        perform set_config('client_connection_check_interval', '1000', false);
    exception when invalid_parameter_value then
        null;  -- the server's platform cannot
    end;
end
$$;
