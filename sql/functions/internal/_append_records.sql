-- Append records to several topics in one call. What pgq.produce_batch and the clients' outboxes end in.
--
-- topics, partitions, partitioners, timestamps, keys, "values"  parallel flat arrays, an element a record and at least
--              one. A null is no partition: by the key's hash, without a key one partition for all such records of the
--              topic; murmur2, then also for the whole array; or no timestamp: now
-- header_records, header_keys, header_values  parallel flat arrays, an element a header: its record, counted from 1
-- returns partition and "offset" of each record, in the order given
-- transaction, locks  as pgq.produce, nothing is appended if one record is refused; synchronous_commit says, as there,
--              whether min.insync.replicas counts
-- raises  what pgq.produce raises, and PQ023 (InvalidRequestError) for records to more than 100 partitions
create or replace function pgq._append_records(
    topics text[], partitions int[], partitioners text[], timestamps timestamptz[], keys bytea[], "values" bytea[],
    header_records int[], header_keys text[], header_values bytea[])
returns setof pgq.record_metadata
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known record;
    bad record;
    topic_ids int[];
    chosen int[];
    taken bigint[];
    placed bigint[];
    topic_id int;
begin
    -- what each topic is, asked once a topic; sticky is where its records without a key go
    select array_agg(t.topic) as topics, array_agg(m.topic_id) as topic_ids, array_agg(cardinality(m.partition_ids)) as partitions,
           array_agg(m.max_message_bytes) as limits, array_agg(floor(random() * cardinality(m.partition_ids))::int) as stickies,
           array_agg(m.timestamp_after_max_ms) as aheads,
           array_agg(pgq._config_value(m.topic_id, 'message.timestamp.type') = 'LogAppendTime') as stamped,
           max(pgq._config_value(m.topic_id, 'min.insync.replicas')::int) as replicas,
           array_agg(t.topic) filter (where m.needs_key) as keyed
      into known
      from (select distinct t.topic from unnest(topics) t (topic)) t, pgq._topic_metadata(t.topic) m;
    if known.replicas > 1 and current_setting('synchronous_commit') not in ('off', 'local') then
        perform pgq._check_replicas(known.replicas);
    end if;
    select array_agg(k.topic_id order by r.i),
           array_agg(coalesce(r.partition, case when r.key is null then k.sticky
                                                else pgq.partition_for_key(r.key, k.partitions, coalesce(r.partitioner, 'murmur2')) end) order by r.i),
           array_agg(case when not k.stamped then r."timestamp" end order by r.i)
      into topic_ids, chosen, timestamps
      from unnest(topics, partitions, partitioners, timestamps, keys) with ordinality r (topic, partition, partitioner, "timestamp", key, i)
      join unnest(known.topics, known.topic_ids, known.partitions, known.stickies, known.stamped) k (topic, topic_id, partitions, sticky, stamped)
           using (topic);
    select r.topic, r.partition into bad
      from unnest(topics, chosen) r (topic, partition)
      join unnest(known.topics, known.partitions) k (topic, partitions) using (topic)
     where r.partition < 0 or r.partition >= k.partitions
     limit 1;
    if found then
        perform pgq._raise_unknown_partition(bad.topic, bad.partition);
    end if;
    if known.keyed is not null then
        perform pgq._raise_missing_key(r.topic) from unnest(topics, keys) r (topic, key)
          where r.key is null and r.topic = any (known.keyed);
    end if;
    -- what is wrong with a record is found here and told there
    perform pgq._check_record(r.value, r.key, h.keys, h.values, r."timestamp", k.limit_bytes, k.ahead_ms)
       from unnest(topics, keys, "values", timestamps) with ordinality r (topic, key, value, "timestamp", i)
       join unnest(known.topics, known.limits, known.aheads) k (topic, limit_bytes, ahead_ms) using (topic)
       left join (select h.i, array_agg(h.key) as keys, array_agg(h.value) as values, bool_or(h.key is null) as bad,
                         sum(octet_length(h.key) + coalesce(octet_length(h.value), 0)) as bytes
                    from unnest(header_records, header_keys, header_values) h (i, key, value)
                   group by h.i) h using (i)
      where h.bad or r."timestamp" < 'epoch' or r."timestamp" > clock_timestamp()
         or coalesce(octet_length(r.value), 0)::bigint + coalesce(octet_length(r.key), 0) + coalesce(h.bytes, 0) > k.limit_bytes;
    -- offsets first, in a statement of their own; both sides in the same order, so that they need no join to meet
    select array_agg(o."offset" order by a.topic_id, a.partition, o.nth) into taken
      from (select array_agg(c.topic_id) as topics, array_agg(c.partition) as partitions, array_agg(c.n) as counts
              from (select c.topic_id, c.partition, count(*)::int as n
                      from unnest(topic_ids, chosen) c (topic_id, partition) group by c.topic_id, c.partition) c) w,
           pgq.begin_append(w.topics, w.partitions, w.counts) a,
           unnest(a.offsets) with ordinality o ("offset", nth);
    select array_agg(p."offset" order by p.i) into placed
      from unnest(array(select r.i from unnest(topic_ids, chosen) with ordinality r (topic_id, partition, i)
                         order by r.topic_id, r.partition, r.i), taken) p (i, "offset");
    for topic_id in select distinct t from unnest(topic_ids) t loop
        execute format($insert$
            insert into pgq_log.t%s (partition, "offset", "timestamp", key, value, header_keys, header_values)
            select r.partition, r."offset", date_trunc('milliseconds', coalesce(r."timestamp", clock_timestamp())), r.key, r.value, h.keys, h.values
              from unnest($2, $3, $4, $5, $6, $7) with ordinality r (topic_id, partition, "offset", "timestamp", key, value, i)
              left join (select h.i, array_agg(h.key order by h.nth) as keys, array_agg(h.value order by h.nth) as values
                           from unnest($8, $9, $10) with ordinality h (i, key, value, nth)
                          group by h.i) h using (i)
             where r.topic_id = $1
             order by r.partition, r."offset"
            $insert$, topic_id)
            using topic_id, topic_ids, chosen, placed, timestamps, keys, "values", header_records, header_keys, header_values;
    end loop;
    return query select r.partition, r."offset" from unnest(chosen, placed) with ordinality r (partition, "offset", i) order by r.i;
end
$$;
