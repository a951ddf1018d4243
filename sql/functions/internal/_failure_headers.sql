-- The headers of a record that could not be processed: those that it has, and what is to be known of the failure.
--
-- topic, partition, "offset", "timestamp"  where it was read; its origin, unless its headers name one (is_retry)
-- due_at   when it is tried again; null: never
-- error    of this attempt
-- attempts  how many were made so far; null: one more than the headers say
create or replace function pgq._failure_headers(
    keys text[], "values" bytea[], group_id text, topic text, partition int, "offset" bigint, "timestamp" timestamptz,
    is_retry boolean, due_at timestamptz, error text, attempts int,
    out header_keys text[], out header_values bytea[])
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    named jsonb := '{}';
    said text := left(coalesce(error, ''), 1000);
begin
    if is_retry and pgq._header_text(keys, "values", 'pgq.origin.topic') is not null then
        select coalesce(jsonb_object_agg(h.key, pgq._header_text(keys, "values", h.key)), '{}') into named
          from (select distinct k from unnest(keys) k) h (key)
         where h.key in ('pgq.origin.topic', 'pgq.origin.partition', 'pgq.origin.offset', 'pgq.origin.timestamp',
                         'pgq.attempt', 'pgq.first_error', 'pgq.redriven');
    else
        named := jsonb_build_object('pgq.origin.topic', topic, 'pgq.origin.partition', partition, 'pgq.origin.offset', "offset",
                                    'pgq.origin.timestamp', (extract(epoch from "timestamp") * 1000)::bigint);
    end if;
    attempts := coalesce(attempts, case when named ->> 'pgq.attempt' ~ '^\d{1,9}$' then (named ->> 'pgq.attempt')::int else 0 end + 1);
    named := named || jsonb_build_object('pgq.group', group_id, 'pgq.attempt', attempts,
                                         'pgq.failed', (extract(epoch from clock_timestamp()) * 1000)::bigint,
                                         'pgq.first_error', coalesce(named ->> 'pgq.first_error', said), 'pgq.last_error', said)
                   || case when due_at is null then '{}' else jsonb_build_object('pgq.due', (extract(epoch from due_at) * 1000)::bigint) end;
    select array_agg(h.key order by h.place, h.i), array_agg(h.value order by h.place, h.i) into header_keys, header_values
      from (select 1 as place, h.i, h.key, h.value from unnest(keys, "values") with ordinality h (key, value, i)
             where h.key not in ('pgq.due', 'pgq.redriven') and not named ? h.key
            union all
            select 2, row_number() over (order by n.key), n.key, convert_to(n.value, 'UTF8') from jsonb_each_text(named) n) h;
end
$$;
