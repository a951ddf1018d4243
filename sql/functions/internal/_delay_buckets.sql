-- Tables of delayed records, those of the earliest hour first.
--
-- after, before  only those of hours from the former's to the latter's; null: no bound
--
-- Without a search_path of its own, so that the planner puts it into the caller's query, which most often wants the first alone;
-- its callers have one.
create or replace function pgq._delay_buckets(after timestamptz default null, before timestamptz default null)
returns table (bucket text, hour_ends_at timestamptz)
language sql stable
as $$
    select pg_catalog.concat('pgq_log.', c.relname),
           pg_catalog.to_timestamp((pg_catalog.substr(c.relname::text, 9, 8)::bigint + 1) * 3600)
      from pg_catalog.pg_class c
     where c.relnamespace = 'pgq_log'::pg_catalog.regnamespace::pg_catalog.oid and c.relkind = 'r'
       and c.relname >= coalesce(pgq._delay_name(after), 'delayed_0')::pg_catalog.name
       and c.relname < pg_catalog.concat(coalesce(pgq._delay_name(before), 'delayed_9'), '~')::pg_catalog.name
       and c.relname ~ '^delayed_\d{8}_\d+$'
     order by c.relname
$$;
