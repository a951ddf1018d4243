-- Topics, those in creation and deletion too.
--
-- records, bytes, segments  of all its partitions, as in pgq.partition_status; bytes are computed only if selected
-- skew    records of the fullest partition / the mean; 1 is even, null without records
-- config  all keys, defaults included
create or replace view pgq.topic_status as
select t.name as topic, t.topic_id, t.state, t.partitions, coalesce(s.records, 0) as records, coalesce(s.bytes, 0) as bytes,
       coalesce(s.segments, 0) as segments, s.skew, t.created_at,
       (select jsonb_object_agg(c.key, coalesce(t.config -> c.key, c.default_value)) from pgq.topic_config c) as config
  from pgq.topic t
  left join (
        select p.topic, sum(p.records)::bigint as records, sum(p.bytes)::bigint as bytes, sum(p.segments)::bigint as segments,
               round(max(p.records) / nullif(avg(p.records), 0), 2) as skew
          from pgq.partition_status p
         group by p.topic) s on s.topic = t.name;
comment on view pgq.topic_status is 'Topics: state, partitions, records, bytes on disk, skew, configuration.';
