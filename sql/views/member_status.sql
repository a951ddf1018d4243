-- Members of consumer groups.
--
-- alive       whether the member's session lives, as the lock table says. One that does not is removed by the next who
--             notices; a static one has session_timeout_ms from dead_since on to come back
-- topics      what it reads
-- partitions  how many it holds right now; assignment says which: a JSON object, topic -> [partition, …]. On a standby,
--             where the leader's locks are not known, these and alive are null
create or replace view pgq.member_status as
with lock as materialized (
    select * from pgq._group_locks()
), held as (
    select o.member_id, l.pid, t.name as topic, count(*) as partitions, jsonb_agg(p.partition order by p.partition) as numbers
      from lock l
      join pgq.partition_owner o using (consumer_group_id, partition_id)
      join pgq.partition p using (partition_id)
      join pgq.topic t on t.topic_id = p.topic_id
     group by o.member_id, l.pid, t.name
), assigned as (
    select h.member_id, h.pid, sum(h.partitions)::bigint as partitions, jsonb_object_agg(h.topic, h.numbers) as assignment
      from held h group by h.member_id, h.pid
)
select g.name as group_id, m.member_id, m.group_instance_id, m.client_id, m.client_addr, m.pid, m.joined_at,
       case when not pg_is_in_recovery() then l.member_id is not null end as alive,
       case when pg_is_in_recovery() or l.member_id is null then m.dead_since end as dead_since, m.session_timeout_ms, m.topics,
       case when not pg_is_in_recovery() then coalesce(a.partitions, 0) end as partitions,
       case when not pg_is_in_recovery() then coalesce(a.assignment, '{}') end as assignment
  from pgq.group_member m
  join pgq.consumer_group g using (consumer_group_id)
  left join lock l on l.member_id = m.member_id
  left join assigned a on a.member_id = m.member_id and a.pid = m.pid;
comment on view pgq.member_status is 'Members of consumer groups: session, whether it lives, what it reads and holds.';
