-- Append many records to a topic.
--
-- topic        its name
-- "values"     the records' values
-- keys, partitions, timestamps, headers  parallel to it where given; an element, or the whole array, may be null, with
--              the meaning it has for pgq.produce. headers: an object of strings for each record
-- returns partition and "offset" of each record, in the order given
-- transaction, locks and what it raises: as pgq.produce, and PQ023 (InvalidRequestError) for records to more than 100
--              partitions; nothing is appended if one record is refused
create or replace function pgq.produce_batch(
    topic text, "values" bytea[], keys bytea[] default null, partitions int[] default null,
    timestamps timestamptz[] default null, headers jsonb[] default null)
returns setof pgq.record_metadata
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    topic pgq.topic_description := pgq.describe_topic(produce_batch.topic);
    n int := coalesce(cardinality("values"), 0);
    limit_bytes bigint := (topic.config ->> 'max.message.bytes')::bigint;
    chosen int[];
    taken_partitions int[];
    taken_offsets bigint[];
    taken_nths bigint[];
    bad record;
begin
    if exists (select from unnest(array[cardinality(keys), cardinality(partitions), cardinality(timestamps), cardinality(headers)]) c where c <> n)
       or 1 <> any (array[array_ndims("values"), array_ndims(keys), array_ndims(partitions), array_ndims(timestamps), array_ndims(headers)]) then
        raise exception 'produce_batch: arrays of different shapes'
            using errcode = 'PQ018', hint = 'Give flat arrays, keys, partitions, timestamps and headers as long as "values", or null.';
    end if;
    if n = 0 then
        return;
    end if;
    headers := array(select pgq._headers_object(h.headers) from unnest(headers) with ordinality h (headers, i) order by h.i);
    chosen := array(
        select coalesce(r.partition, case when r.key is null then floor(random() * topic.partitions)::int
                                          else pgq.partition_for_key(r.key, topic.partitions) end)
          from unnest("values", keys, partitions) with ordinality r (value, key, partition, i) order by r.i);
    select c into bad from unnest(chosen) c where c < 0 or c >= topic.partitions limit 1;
    if found then
        perform pgq._raise_unknown_partition(produce_batch.topic, bad.c);
    end if;
    -- the sum is an upper bound of what _check_record counts: only suspects are looked at closely
    perform pgq._check_record(r.value, r.key, (select array_agg(h.key) from jsonb_each_text(r.headers) h),
                              (select array_agg(convert_to(h.value, 'UTF8')) from jsonb_each_text(r.headers) h),
                              r."timestamp", limit_bytes, (topic.config ->> 'message.timestamp.after.max.ms')::bigint)
       from unnest("values", keys, timestamps, headers) r (value, key, "timestamp", headers)
      where r."timestamp" < 'epoch' or r."timestamp" = 'infinity'
         or coalesce(octet_length(r.value), 0) + coalesce(octet_length(r.key), 0) + coalesce(octet_length(r.headers::text), 0) > limit_bytes;
    -- offsets first, in a statement of their own; then the rows, numbered within their partitions in the order given
    select array_agg(a.partition), array_agg(o."offset"), array_agg(o.nth) into taken_partitions, taken_offsets, taken_nths
      from (select array_agg(topic.topic_id order by c) as topics, array_agg(c order by c) as partitions, array_agg(n::int order by c) as counts
              from (select c, count(*) as n from unnest(chosen) c group by c) counted) w,
           pgq.begin_append(w.topics, w.partitions, w.counts) a,
           unnest(a.offsets) with ordinality o ("offset", nth);
    return query execute format($insert$
        with numbered as (
            select r.*, row_number() over (partition by r.partition order by r.i) as nth
              from unnest($1, $2, $3, $4, $5) with ordinality r (partition, value, key, "timestamp", headers, i)
        ), placed as (
            select n.*, t."offset" from numbered n join unnest($6, $7, $8) t (partition, "offset", nth) using (partition, nth)
        ), inserted as (
            insert into pgq_log.t%s (partition, "offset", "timestamp", key, value, header_keys, header_values)
            select p.partition, p."offset", date_trunc('milliseconds', coalesce(p."timestamp", clock_timestamp())), p.key, p.value, h.keys, h.values
              from placed p,
                   lateral (select array_agg(h.key) as keys, array_agg(convert_to(h.value, 'UTF8')) as values
                              from jsonb_each_text(p.headers) h) h
             order by p.partition, p."offset"
        )
        select p.partition, p."offset" from placed p order by p.i
        $insert$, topic.topic_id)
        using chosen, "values", keys, timestamps, headers, taken_partitions, taken_offsets, taken_nths;
end
$$;
