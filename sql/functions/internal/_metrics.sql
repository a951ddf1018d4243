-- What there is to measure of topics and groups, for pgq.service.metrics: one statement a scrape. pgq.telemetry.SERVICE_METRICS
-- says what each means.
--
-- returns a row a number; topic, partition and consumergroup are null where the metric has no such label. What is not known
--         is left out: lags where nothing is committed, sizes where a segment is locked by somebody who may keep it for long,
--         on a standby what the leader's locks tell
create or replace function pgq._metrics()
returns table (metric text, topic text, partition int, consumergroup text, value double precision)
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    with part as materialized (
        select p.topic, p.partition, p.log_start_offset, p.high_watermark, p.segments, p.producers, p.producer_age
          from pgq.partition_status p
    ), locked as materialized (
        select l.relation from pg_locks l
         where l.locktype = 'relation' and l.mode = 'AccessExclusiveLock' and l.granted
           and l.database = (select d.oid from pg_database d where d.datname = current_database())
    ), segment as materialized (
        -- what no transaction can add to any more has been measured
        select t.name as topic, p.partition, s.bytes, case when s.bytes is null then
                   to_regclass(format('pgq_log.t%s_p%s_s%s', p.topic_id, p.partition, s.base_offset)) end as relation
          from pgq.topic t
          join pgq.partition p on p.topic_id = t.topic_id and p.partition < t.partitions
          join pgq.segment s using (partition_id)
         where t.state = 'ready'
    ), size as materialized (
        select s.topic, s.partition, sum(coalesce(s.bytes, case when l.relation is null then pg_total_relation_size(s.relation) end)) as bytes
          from segment s left join locked l on l.relation = s.relation
         group by s.topic, s.partition
        having count(l.relation) = 0
    ), lag as materialized (
        select g.group_id, g.topic, g.partition, g.committed_offset, g.lag, g.time_lag from pgq.group_partition_status g
         where g.committed_offset is not null
    ), measured (metric, topic, partition, consumergroup, value) as (
        select 'pgq_topic_partitions', p.topic, null::int, null, count(*) from part p group by p.topic
        union all
        select v.metric, p.topic, p.partition, null, v.value
          from part p
          cross join lateral (values
                ('pgq_topic_partition_oldest_offset', p.log_start_offset::numeric),
                ('pgq_topic_partition_current_offset', p.high_watermark),
                ('pgq_topic_partition_segments', p.segments),
                ('pgq_topic_partition_producer_age_seconds',
                 case when p.producers = 0 then 0 else extract(epoch from p.producer_age) end)) v (metric, value)
        union all
        select 'pgq_topic_partition_size_bytes', s.topic, s.partition, null, s.bytes from size s
        union all
        select v.metric, l.topic, l.partition, l.group_id, v.value
          from lag l
          cross join lateral (values
                ('pgq_consumergroup_current_offset', l.committed_offset::numeric),
                ('pgq_consumergroup_lag', l.lag),
                ('pgq_consumergroup_lag_seconds', extract(epoch from l.time_lag))) v (metric, value)
        union all
        select v.metric, l.topic, null, l.group_id, v.value
          from (select l.topic, l.group_id, sum(l.committed_offset) as committed_offset, sum(l.lag) as lag from lag l
                 group by l.topic, l.group_id) l
          cross join lateral (values
                ('pgq_consumergroup_current_offset_sum', l.committed_offset),
                ('pgq_consumergroup_lag_sum', l.lag)) v (metric, value)
        union all
        select 'pgq_consumergroup_members', null, null, g.group_id, g.members from pgq.group_status g
        union all
        select 'pgq_delayed_overdue_seconds', null, null, null, greatest(0, - coalesce(pgq._next_due_ms(), 0)) / 1000.0
        union all
        select 'pgq_delayed_records', t.name, null, null, coalesce(d.records, 0)
          from pgq.topic t left join pgq._delayed_counts() d using (topic_id) where t.state = 'ready'
        union all
        select 'pgq_in_sync_replicas', null, null, null, a.in_sync_replicas from pgq.acks_status() a
    )
    select m.metric, m.topic, m.partition, m.consumergroup, m.value::double precision from measured m where m.value is not null
$$;
