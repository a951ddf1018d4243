-- The number of the current beat of a member: of the current eighth of its session timeout.
create or replace function pgq._beat_now(session_timeout_ms int)
returns bigint
language sql volatile strict
set search_path = pgq, pg_catalog, pg_temp
as $$
    select floor(extract(epoch from clock_timestamp()) * 8000 / session_timeout_ms)::bigint
$$;
