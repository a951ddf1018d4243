-- Headers as a JSON array of [key, value] pairs, in order; a value that is no UTF-8 as "\x…". Null without headers.
create or replace function pgq._headers_json(keys text[], "values" bytea[])
returns jsonb
language sql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
    select jsonb_agg(jsonb_build_array(h.key, coalesce(pgq._text(h.value), h.value::text)) order by h.nth)
      from unnest(keys, "values") with ordinality h (key, value, nth)
     where keys is not null
$$;
