-- Give this session the timeouts again that it had before pgq._set_session_timeouts.
create or replace function pgq._restore_session_timeouts()
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    before jsonb := nullif(current_setting('pgq.timeouts_before', true), '');
begin
    perform set_config(s.name, before ->> s.name, false) from unnest(pgq._session_timeouts()) s (name) where before ? s.name;
    perform set_config('pgq.timeouts_before', '', false);
end
$$;
