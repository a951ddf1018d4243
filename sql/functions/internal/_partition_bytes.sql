-- Bytes on disk of a partition's segments, or of one of them: tables, indexes and TOAST.
-- With the owner's rights, since readers may not even name what is in schema pgq_log; stable, so that a view which
-- shows it does not compute it for those who do not ask.
create or replace function pgq._partition_bytes(partition_id int, base_offset bigint default null)
returns bigint
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce(sum(pg_total_relation_size(to_regclass(format('pgq_log.t%s_p%s_s%s', p.topic_id, p.partition, s.base_offset)))), 0)::bigint
      from pgq.partition p join pgq.segment s using (partition_id)
     where p.partition_id = _partition_bytes.partition_id
       and (_partition_bytes.base_offset is null or s.base_offset = _partition_bytes.base_offset)
$$;
