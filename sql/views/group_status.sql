-- Consumer groups.
--
-- state       Empty: no member lives. Stable: each partition of the topics that the living members read is held by one of
--             them. Rebalancing: some are not, or not yet
-- members     living ones; on a standby, where the leader's locks are not known, null, as state is
-- partitions  that they hold
-- lag         of all partitions with a committed offset; null without one. time_lag is the longest of them. Both are
--             computed only if selected
create or replace view pgq.group_status as
with lock as materialized (
    select * from pgq._group_locks()
), member as materialized (
    select m.consumer_group_id, m.member_id, m.pid, m.topics
      from pgq.group_member m join lock l using (member_id)
), held as materialized (
    select l.consumer_group_id, l.partition_id
      from lock l join member m on m.consumer_group_id = l.consumer_group_id and m.pid = l.pid
     group by l.consumer_group_id, l.partition_id
), unclaimed as (
    select m.consumer_group_id
      from member m join pgq.topic t on t.name = any (m.topics) and t.state = 'ready'
      join pgq.partition p on p.topic_id = t.topic_id and p.partition < t.partitions
      left join held h on h.consumer_group_id = m.consumer_group_id and h.partition_id = p.partition_id
     where h.partition_id is null
     group by m.consumer_group_id
)
select g.name as group_id,
       case when pg_is_in_recovery() then null when m.members is null then 'Empty'
            when u.consumer_group_id is not null then 'Rebalancing' else 'Stable' end as state,
       g.assignor, g.generation, case when not pg_is_in_recovery() then coalesce(m.members, 0) end as members,
       case when not pg_is_in_recovery() then coalesce(h.partitions, 0) end as partitions, s.lag, s.time_lag, g.created_at
  from pgq.consumer_group g
  left join (select m.consumer_group_id, count(*) as members from member m group by m.consumer_group_id) m using (consumer_group_id)
  left join (select h.consumer_group_id, count(*) as partitions from held h group by h.consumer_group_id) h using (consumer_group_id)
  left join unclaimed u using (consumer_group_id)
  left join (select p.group_id, sum(p.lag)::bigint as lag, max(p.time_lag) as time_lag
               from pgq.group_partition_status p group by p.group_id) s on s.group_id = g.name;
comment on view pgq.group_status is 'Consumer groups: state, members, partitions held, lag.';
