-- Active segments that are larger than they should be: nobody has rolled them. Producers of the client library and the service
-- do; what SQL functions append ends segments by the number of offsets only.
--
-- returns a row a segment of twice its size or more: pgq.upkeep rolls at 1.25 times, and is called now and then
-- locks   none that outlive the look
create or replace function pgq._oversized_segments()
returns table (topic text, partition int, partition_id int, bytes bigint, segment_bytes bigint)
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select x.topic, x.partition, x.partition_id, x.bytes, x.segment_bytes
      from (select t.name as topic, p.partition, p.partition_id, t.segment_bytes,
                   pg_total_relation_size(to_regclass(format('pgq_log.t%s_p%s_s%s', p.topic_id, p.partition, s.base_offset))) as bytes
              from (select t.topic_id, t.name, pgq._segment_bytes(t.topic_id) as segment_bytes from pgq.topic t) t
              join pgq.partition p using (topic_id)
              join pgq._partition_progress() w using (partition_id)
              join pgq.segment s on s.partition_id = p.partition_id and s.base_offset < w.next_offset and s.end_offset > w.next_offset) x
     where x.bytes >= 2 * x.segment_bytes
$$;
