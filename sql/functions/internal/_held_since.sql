-- Since when segments of a partition below its log start have been kept from being dropped, as pgq._note_held has noted on its
-- table; null: they have not.
create or replace function pgq._held_since(tree text)
returns timestamptz
language sql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
    select substring(d.description from '^Segments below the log start have been held since (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z$')::timestamp
               at time zone 'UTC'
      from pg_description d
     where d.classoid = 'pg_class'::regclass and d.objoid = to_regclass(_held_since.tree) and d.objsubid = 0
$$;
