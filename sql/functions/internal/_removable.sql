-- The condition, on a segment s, that a record is a tombstone which every reader has had time to meet. A record
-- without a key is never one: there is nothing that it could delete.
create or replace function pgq._removable(removable_below bigint)
returns text
language sql immutable
as $$ select pg_catalog.format('s.value is null and s.key is not null and s."offset" < %s', removable_below) $$;
