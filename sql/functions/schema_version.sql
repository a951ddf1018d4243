-- Revision of this schema, as `pgq db current` prints it.
create or replace function pgq.schema_version()
returns text
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$ select max(v.version_num) from pgq.alembic_version v $$;
