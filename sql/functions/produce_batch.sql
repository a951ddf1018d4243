-- Append many records to a topic.
--
-- topic        its name
-- "values"     the records' values
-- keys, partitions, timestamps, headers  parallel to it where given; an element, or the whole array, may be null, with
--              the meaning it has for pgq.produce. headers: an object of strings for each record
-- returns partition and "offset" of each record, in the order given
-- transaction, locks and what it raises: as pgq.produce; nothing is appended if one record is refused
create or replace function pgq.produce_batch(
    topic text, "values" bytea[], keys bytea[] default null, partitions int[] default null,
    timestamps timestamptz[] default null, headers jsonb[] default null)
returns setof pgq.record_metadata
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    topic pgq.topic_description := pgq.describe_topic(produce_batch.topic);
    n int := coalesce(cardinality("values"), 0);
    limit_bytes bigint := (topic.config ->> 'max.message.bytes')::bigint;
    chosen int[];
    bad record;
begin
    if exists (select from unnest(array[cardinality(keys), cardinality(partitions), cardinality(timestamps), cardinality(headers)]) c where c <> n) then
        raise exception 'produce_batch: arrays of different lengths'
            using errcode = 'PQ018', hint = 'Give keys, partitions, timestamps and headers as long as "values", or null.';
    end if;
    if n = 0 then
        return;
    end if;
    chosen := array(
        select coalesce(partitions[i], case when keys[i] is null then floor(random() * topic.partitions)::int
                                            else pgq.partition_for_key(keys[i], topic.partitions) end)
          from generate_series(1, n) i order by i);
    select c into bad from unnest(chosen) c where c < 0 or c >= topic.partitions limit 1;
    if found then
        perform pgq._raise_unknown_partition(produce_batch.topic, bad.c);
    end if;
    -- the sum is an upper bound of what _check_record counts: only suspects are looked at closely
    perform pgq._check_record("values"[i], keys[i],
                              (select array_agg(h.key) from jsonb_each_text(headers[i]) h),
                              (select array_agg(convert_to(h.value, 'UTF8')) from jsonb_each_text(headers[i]) h),
                              timestamps[i], limit_bytes)
       from generate_series(1, n) i
      where timestamps[i] < 'epoch' or timestamps[i] = 'infinity'
         or coalesce(octet_length("values"[i]), 0) + coalesce(octet_length(keys[i]), 0) + coalesce(octet_length(headers[i]::text), 0) > limit_bytes;
    return query execute format($insert$
        with taken as (
            select a.partition, o."offset", o.nth
              from pgq.begin_append((select array_agg(%1$s) from (select distinct c from unnest($1) c) d),
                                    (select array_agg(c order by c) from (select distinct c from unnest($1) c) d),
                                    (select array_agg(n::int order by c) from (select c, count(*) as n from unnest($1) c group by c) d)) a,
                   unnest(a.offsets) with ordinality o ("offset", nth)
        ), numbered as (
            select c.partition, c.i, row_number() over (partition by c.partition order by c.i) as nth
              from unnest($1) with ordinality c (partition, i)
        ), inserted as (
            insert into pgq_log.t%1$s (partition, "offset", "timestamp", key, value, header_keys, header_values)
            select n.partition, t."offset", date_trunc('milliseconds', coalesce(($4)[n.i], clock_timestamp())), ($3)[n.i], ($2)[n.i], h.keys, h.values
              from numbered n join taken t using (partition, nth),
                   lateral (select array_agg(h.key) as keys, array_agg(convert_to(h.value, 'UTF8')) as values
                              from jsonb_each_text(($5)[n.i]) h) h
             order by n.partition, t."offset"
        )
        select n.partition, t."offset" from numbered n join taken t using (partition, nth) order by n.i
        $insert$, topic.topic_id) using chosen, "values", keys, timestamps, headers;
end
$$;
