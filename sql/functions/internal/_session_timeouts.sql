-- The settings by which the server ends a member's session.
create or replace function pgq._session_timeouts()
returns text[]
language sql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
    select '{idle_session_timeout,idle_in_transaction_session_timeout,tcp_keepalives_idle,tcp_keepalives_interval,tcp_keepalives_count,'
           'tcp_user_timeout,client_connection_check_interval}'::text[]
$$;
