-- Let a role execute functions of schema pgq, all of each name.
create or replace function pgq._grant_functions(grantee text, names text[])
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    execute format('grant execute on routine %s to %I',
                   (select string_agg(f.oid::regprocedure::text, ', ') from pg_proc f
                     where f.pronamespace = 'pgq'::regnamespace and f.proname = any (names)), grantee);
end
$$;
