-- Segments: which offsets they hold, and how large they are.
--
-- active  whether appends go to it now; those after it were made ahead
-- bytes   on disk; computed only if selected
create or replace view pgq.segment_status as
select t.name as topic, p.partition, s.base_offset, s.end_offset,
       w.next_offset >= s.base_offset and w.next_offset < s.end_offset as active,
       pgq._partition_bytes(p.partition_id, s.base_offset) as bytes,
       format('pgq_log.t%s_p%s_s%s', p.topic_id, p.partition, s.base_offset) as relation,
       s.created_at
  from pgq.topic t
  join pgq.partition p on p.topic_id = t.topic_id and p.partition < t.partitions
  join pgq.segment s using (partition_id)
  join pgq._partition_progress() w using (partition_id)
 where t.state = 'ready';
comment on view pgq.segment_status is 'Segments: offsets, bytes on disk, whether appends go to it now.';
