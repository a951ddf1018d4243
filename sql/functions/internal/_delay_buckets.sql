-- Tables of delayed records, those of the earliest hour first.
--
-- after, before  only those of hours from the former's to the latter's; null: no bound
create or replace function pgq._delay_buckets(after timestamptz default null, before timestamptz default null)
returns table (bucket text, hour_ends_at timestamptz)
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select 'pgq_log.' || c.relname, to_timestamp((substr(c.relname, 9, 8)::bigint + 1) * 3600)
      from pg_class c
     where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'pgq_log') and c.relkind = 'r'
       and c.relname >= coalesce(pgq._delay_name(after), 'delayed_0')::name
       and c.relname < (coalesce(pgq._delay_name(before), 'delayed_9') || '~')::name
       and c.relname ~ '^delayed_\d{8}_\d+$'
     order by c.relname
$$;
