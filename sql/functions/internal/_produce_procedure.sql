-- Name of the procedure that pgq._define_produce writes for a topic; by a hash, since a topic name may be too long for a name.
create or replace function pgq._produce_procedure(topic text)
returns text
language sql immutable
as $$ select 'pgq_log.produce_' operator(pg_catalog.||) pg_catalog.md5(topic) $$;
