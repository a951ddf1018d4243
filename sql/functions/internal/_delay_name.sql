-- What the names of tables for records that are due in an hour begin with. They sort by the hour.
create or replace function pgq._delay_name(due_at timestamptz)
returns text
language sql immutable
as $$ select 'delayed_' || pg_catalog.lpad(floor(extract(epoch from due_at) / 3600)::bigint::text, 8, '0') $$;
