-- A key without its salt, and the salt: what pgq.compound_key put together. Any other key as it is, with a null salt.
--
-- returns one row always, so that it can stand in FROM beside the records
--
-- Only the last bytes are looked at, written out as ASCII, since a key is any bytes. No search_path, so that the planner
-- puts it into the query.
create or replace function pgq.split_compound_key(compound_key bytea)
returns table(key bytea, salt int)
language sql immutable parallel safe
as $$
    select pg_catalog.substring(compound_key, 1,
               pg_catalog.octet_length(compound_key) operator(pg_catalog.-)
               coalesce(pg_catalog.length('#salt=') operator(pg_catalog.+) pg_catalog.length(tail.salt), 0)),
           tail.salt::int
      from (select pg_catalog.substring(
                       pg_catalog.encode(pg_catalog.substring(compound_key, greatest(1, pg_catalog.octet_length(compound_key) operator(pg_catalog.-) 14)), 'escape'),
                       '#salt=(0|[1-9][0-9]{0,8})$') as salt) tail
$$;
