-- Size of a record as max.message.bytes counts it: key + value + headers as stored.
create or replace function pgq._record_bytes(value bytea, key bytea, header_keys text[], header_values bytea[])
returns bigint
language sql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce(octet_length(value), 0)::bigint + coalesce(octet_length(key), 0)
         + coalesce((select sum(octet_length(k)) from unnest(header_keys) k), 0)
         + coalesce((select sum(octet_length(v)) from unnest(header_values) v), 0)
$$;
