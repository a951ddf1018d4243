-- The value of a header as text; null if there is none. Bytes that are no UTF-8 are escaped, never refused.
-- Without a search_path or a query of its own, so that the planner puts it into the caller's expression: a search through dead
-- letters reads it of every record.
create or replace function pgq._header_text(keys text[], "values" bytea[], name text)
returns text
language sql immutable
as $$
    select coalesce(pgq._text("values"[pg_catalog.array_position(keys, name)]),
                    pg_catalog.encode("values"[pg_catalog.array_position(keys, name)], 'escape'))
$$;
