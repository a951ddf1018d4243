-- Consumer groups, partition by partition: a row for each partition that a group has committed an offset for, that is held
-- for it, or whose topic its members read.
--
-- lag       high watermark - committed offset, as far as it can still be read and without the offsets that rolls skipped;
--           null without a committed offset
-- time_lag  age of the first record that is not processed, zero if there is none; computed only if selected
-- pid       of the session that holds the claim right now, as the lock table says; null: nobody does. member_id and what
--           follows are that member's; null beside a pid: the claim is about to be taken, or to be given up by one who is
--           no member any more. On a standby, where the leader's locks are not known, null, as high_watermark and lag are
create or replace view pgq.group_partition_status as
with held as materialized (
    select l.consumer_group_id, l.partition_id, l.pid from pgq._group_locks() l where l.partition_id is not null
)
select g.name as group_id, t.name as topic, p.partition, c."offset" as committed_offset, c.metadata, c.committed_at,
       p.log_start_offset, w.high_watermark, w.next_offset as log_end_offset,
       case when c."offset" is not null and w.high_watermark is not null then
           greatest(0, w.high_watermark - greatest(c."offset", p.log_start_offset) - coalesce(
               (select sum(greatest(0, least(r.to_offset, w.high_watermark) - greatest(r.from_offset, c."offset", p.log_start_offset)))
                  from pgq.skipped_range r
                 where r.partition_id = p.partition_id and r.to_offset > greatest(c."offset", p.log_start_offset)), 0)) end::bigint as lag,
       pgq._time_lag(p.partition_id, case when c."offset" is not null then greatest(c."offset", p.log_start_offset) end, w.high_watermark)
           as time_lag,
       h.pid, m.member_id, m.group_instance_id, m.client_id, m.client_addr,
       case when m.member_id is not null then o.epoch end as epoch, case when m.member_id is not null then o.claimed_at end as claimed_at
  from pgq.consumer_group g
  cross join lateral (
        -- one look into the index for each partition, however many rows of it there are
        (with recursive committed as (
            (select c.partition_id from pgq.committed_offset c
              where c.consumer_group_id = g.consumer_group_id order by c.partition_id limit 1)
            union all
            select (select c.partition_id from pgq.committed_offset c
                     where c.consumer_group_id = g.consumer_group_id and c.partition_id > b.partition_id order by c.partition_id limit 1)
              from committed b where b.partition_id is not null
        )
        select b.partition_id from committed b where b.partition_id is not null)
        union
        select h.partition_id from held h where h.consumer_group_id = g.consumer_group_id
        union
        select p.partition_id from pgq.group_member m
          join pgq.topic t on t.name = any (m.topics) join pgq.partition p on p.topic_id = t.topic_id
         where m.consumer_group_id = g.consumer_group_id) r
  join pgq.partition p using (partition_id)
  join pgq.topic t on t.topic_id = p.topic_id and t.state = 'ready' and p.partition < t.partitions
  join pgq._partition_progress() w on w.partition_id = p.partition_id
  left join held h on h.consumer_group_id = g.consumer_group_id and h.partition_id = p.partition_id
  left join pgq.partition_owner o on o.consumer_group_id = g.consumer_group_id and o.partition_id = p.partition_id
  left join pgq.group_member m on m.member_id = o.member_id and m.pid = h.pid
  left join lateral (
        select c."offset", c.metadata, c.committed_at from pgq.committed_offset c
         where c.consumer_group_id = g.consumer_group_id and c.partition_id = p.partition_id
         order by c.serial desc limit 1) c on true;
comment on view pgq.group_partition_status is 'Groups by partition: committed offset, lag, and the member that holds the partition.';
