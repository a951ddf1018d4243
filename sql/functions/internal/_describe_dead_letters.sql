-- What is to be told of dead letters: where they are, what their headers say, and the records. No row for one that is gone.
--
-- partition_ids, offsets  parallel arrays
-- returns columns as pgq.dead_letters; nth: where it stands in the arrays
create or replace function pgq._describe_dead_letters(partition_ids int[], offsets bigint[])
returns table (nth bigint, topic text, group_id text, dead_letter_topic text, partition int, "offset" bigint, origin_partition int,
               origin_offset bigint, failed_at timestamptz, attempts int, redriven int, first_error text, last_error text, key bytea,
               value bytea, codec smallint, header_keys text[], header_values bytea[])
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select n.nth, f.origin, f.group_id, t.name, p.partition, r."offset",
           pgq._header_number(r.header_keys, r.header_values, 'pgq.origin.partition', 2147483647)::int,
           pgq._header_number(r.header_keys, r.header_values, 'pgq.origin.offset', 9223372036854775807),
           pgq._failed_at(r.header_keys, r.header_values, r."timestamp"),
           pgq._header_number(r.header_keys, r.header_values, 'pgq.attempt', 2147483647)::int,
           coalesce(pgq._header_number(r.header_keys, r.header_values, 'pgq.redriven', 2147483647), 0)::int,
           pgq._header_text(r.header_keys, r.header_values, 'pgq.first_error'),
           pgq._header_text(r.header_keys, r.header_values, 'pgq.last_error'),
           r.key, r.value, r.codec, r.header_keys, r.header_values
      from pgq._dead_letter_rows(partition_ids, offsets) r
      join unnest(partition_ids, offsets) with ordinality n (partition_id, "offset", nth) using (partition_id, "offset")
      join pgq.partition p using (partition_id)
      join pgq.topic t using (topic_id)
      join pgq.failure_topic f using (topic_id)
$$;
