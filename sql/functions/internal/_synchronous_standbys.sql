-- Read synchronous_standby_names as PostgreSQL does (syncrep_gram.y): which standbys a commit waits for, and for how many.
--
-- returns method any or first, wanted how many, names in their order as they are written; a plain list is FIRST 1. Null,
--         0 and {} where nothing is set. The name * stands for every standby; names are compared without regard to case
create or replace function pgq._synchronous_standbys(out method text, out wanted int, out names text[])
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    setting text := current_setting('synchronous_standby_names');
    found text[] := regexp_match(setting, '^\s*(?:(any|first)\s+)?(\d+)\s*\((.*)\)\s*$', 'i');
begin
    method := case when setting ~ '\S' then lower(coalesce(found[1], 'first')) end;
    wanted := coalesce(found[2]::int, case when setting ~ '\S' then 1 else 0 end);
    names := array(select coalesce(replace(n[1], '""', '"'), n[2])
                     from regexp_matches(coalesce(found[3], setting), '"((?:[^"]|"")*)"|([^\s,"]+)', 'g') n);
end
$$;
