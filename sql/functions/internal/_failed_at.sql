-- When a record failed last, by its headers; without that, as somebody may append to a dead letter topic by hand, its timestamp.
-- Times are bounded by the year 9999, since clients' libraries know no later one.
create or replace function pgq._failed_at(header_keys text[], header_values bytea[], "timestamp" timestamptz)
returns timestamptz
language sql immutable
as $$
    select coalesce(pg_catalog.timestamptz 'epoch' operator(pg_catalog.+)
                    (pgq._header_number(header_keys, header_values, 'pgq.failed', 253402300799999)::pg_catalog.float8
                     operator(pg_catalog.*) pg_catalog.interval '1 millisecond'), "timestamp")
$$;
