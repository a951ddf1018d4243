-- What an operator wants to know of each partition, those not yet in use left out.
--
-- records    high watermark - log start, without the offsets that rolls skipped: the offsets given out that are not below the
--            log start. Those that were rolled back are counted, and those whose records compaction has removed
-- bytes      on disk; computed only if selected
-- producers  open transactions that have appended: readers stop at the first offset that one of them may still fill.
--            producer_… is the oldest, producer_age that of its transaction (null without pg_read_all_stats)
create or replace view pgq.partition_status as
select t.name as topic, p.partition, p.log_start_offset, w.high_watermark, w.next_offset as log_end_offset,
       greatest(0, w.high_watermark - p.log_start_offset - coalesce(
           (select sum(greatest(0, least(r.to_offset, w.high_watermark) - greatest(r.from_offset, p.log_start_offset)))
              from pgq.skipped_range r
             where r.partition_id = p.partition_id and r.to_offset > p.log_start_offset), 0))::bigint as records,
       pgq._partition_bytes(p.partition_id) as bytes,
       (select count(*) from pgq.segment s where s.partition_id = p.partition_id) as segments,
       w.producers, w.producer_pid, w.producer_application, now() - w.producer_since as producer_age, w.producer_prepared
  from pgq.topic t
  join pgq.partition p on p.topic_id = t.topic_id and p.partition < t.partitions
  join pgq._partition_progress() w using (partition_id)
 where t.state = 'ready';
comment on view pgq.partition_status is 'Partitions: log start, high watermark, log end, records (offsets given out that are not below the log start, those of records that compaction has removed included), bytes on disk, oldest open producer.';
