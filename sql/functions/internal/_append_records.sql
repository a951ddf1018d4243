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
    topic_ids int[];
    chosen int[];
    taken bigint[];
    placed bigint[];
    topic_id int;
begin
    select p.topic_ids, p.chosen, p.stamps into topic_ids, chosen, timestamps
      from pgq._place_records(topics, partitions, partitioners, timestamps, keys, "values", header_records, header_keys, header_values) p;
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
