-- See that records may be sent, and where to. What pgq._append_records and pgq._delay_records begin with.
--
-- topics, partitions, partitioners, timestamps, keys, "values", header_records, header_keys, header_values  as pgq._append_records
-- returns topic_ids, chosen: each record's topic and partition; stamps: its timestamp, null where the topic has its own clock
--         or none was given
-- raises  what pgq._append_records raises
create or replace function pgq._place_records(
    topics text[], partitions int[], partitioners text[], timestamps timestamptz[], keys bytea[], "values" bytea[],
    header_records int[], header_keys text[], header_values bytea[],
    out topic_ids int[], out chosen int[], out stamps timestamptz[])
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    known record;
    bad record;
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
      into topic_ids, chosen, stamps
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
       from unnest(topics, keys, "values", stamps) with ordinality r (topic, key, value, "timestamp", i)
       join unnest(known.topics, known.limits, known.aheads) k (topic, limit_bytes, ahead_ms) using (topic)
       left join (select h.i, array_agg(h.key) as keys, array_agg(h.value) as values, bool_or(h.key is null) as bad,
                         sum(octet_length(h.key) + coalesce(octet_length(h.value), 0)) as bytes
                    from unnest(header_records, header_keys, header_values) h (i, key, value)
                   group by h.i) h using (i)
      where h.bad or r."timestamp" < 'epoch' or r."timestamp" > clock_timestamp()
         or coalesce(octet_length(r.value), 0)::bigint + coalesce(octet_length(r.key), 0) + coalesce(h.bytes, 0) > k.limit_bytes;
end
$$;
