-- Put records into the delay table: they are appended when they are due. What pgq.produce_delayed and the clients' flushes and
-- outboxes end in.
--
-- topics, partitions, partitioners, timestamps, keys, "values", header_records, header_keys, header_values  as pgq._append_records;
--           a timestamp that is null becomes that of the delivery
-- due_ats   when, in whole milliseconds; the past: now. Ten years ahead at most
-- returns in the order given: delayed_id, '<due_at in ms since 1970>-<serial>'; partition, chosen now; due_at as it is kept
-- transaction  joins the caller's, in every isolation level
-- locks   DELAY, shared, once a transaction, until its end
-- raises  what pgq.produce raises; PQ017 (InvalidTimestampError) too for due_ats; PQ023 (InvalidRequestError): due in more than 100
--         different hours
create or replace function pgq._delay_records(
    topics text[], partitions int[], partitioners text[], timestamps timestamptz[], keys bytea[], "values" bytea[],
    header_records int[], header_keys text[], header_values bytea[], due_ats timestamptz[])
returns table (delayed_id text, partition int, due_at timestamptz)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    topic_ids int[];
    chosen int[];
    stamps timestamptz[];
    serials bigint[];
    now_at timestamptz;
    most timestamptz;
    hour timestamptz;
begin
    select p.topic_ids, p.chosen, p.stamps into topic_ids, chosen, stamps
      from pgq._place_records(topics, partitions, partitioners, timestamps, keys, "values", header_records, header_keys, header_values) p;
    now_at := pgq._begin_delay();
    select max(d) filter (where d > now_at + interval '10 years'), case when bool_or(d is null) then 'infinity' end::timestamptz
      into most, hour from unnest(due_ats) d;
    if most is not null or hour is not null or cardinality(due_ats) is distinct from cardinality(topics) then
        raise exception 'a record cannot be delivered at %', coalesce(most::text, 'NULL')
            using errcode = 'PQ017', hint = 'Give a time within the next ten years.';
    end if;
    due_ats := array(select greatest(date_trunc('milliseconds', u.d), now_at) from unnest(due_ats) with ordinality u (d, i) order by u.i);
    if (select count(distinct date_trunc('hour', u.d, 'UTC')) from unnest(due_ats) u (d)) > 100 then
        raise exception 'delayed records that are due in more than 100 different hours'
            using errcode = 'PQ023',
                  hint = 'Each hour has a table, whose locks the transaction holds: send them in several transactions.';
    end if;
    serials := array(select nextval('pgq_log.delayed_serial') from unnest(due_ats));
    for hour in select distinct date_trunc('hour', u.d, 'UTC') from unnest(due_ats) u (d) order by 1 loop
        execute format($insert$
            insert into %s (due_at, serial, topic_id, partition, "timestamp", key, value, header_keys, header_values)
            select r.due_at, r.serial, r.topic_id, r.partition, date_trunc('milliseconds', r."timestamp"), r.key, r.value, h.keys, h.values
              from unnest($2, $3, $4, $5, $6, $7, $8) with ordinality r (due_at, serial, topic_id, partition, "timestamp", key, value, i)
              left join (select h.i, array_agg(h.key order by h.nth) as keys, array_agg(h.value order by h.nth) as values
                           from unnest($9, $10, $11) with ordinality h (i, key, value, nth)
                          group by h.i) h using (i)
             where r.due_at >= $1 and r.due_at < $1 + interval '1 hour'
             order by r.due_at, r.serial
            $insert$, pgq._delay_bucket(hour))
            using hour, due_ats, serials, topic_ids, chosen, stamps, keys, "values", header_records, header_keys, header_values;
    end loop;
    return query
        select format('%s-%s', (extract(epoch from r.due_at) * 1000)::bigint, r.serial), r.partition, r.due_at
          from unnest(due_ats, serials, chosen) with ordinality r (due_at, serial, partition, i) order by r.i;
end
$$;
