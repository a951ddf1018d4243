-- The segments of a partition that hold offsets of a range, in order: their tables, and which part of the range is theirs.
-- Readers read segments by name, never through the tree above them: docs/decisions/0002.
create or replace function pgq._segments_between(partition_id int, from_offset bigint, to_offset bigint)
returns table (relation text, low bigint, high bigint)
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select format('pgq_log.t%s_p%s_s%s', p.topic_id, p.partition, s.base_offset),
           greatest(s.base_offset, from_offset), least(s.end_offset, to_offset)
      from pgq.partition p join pgq.segment s using (partition_id)
     where p.partition_id = _segments_between.partition_id and s.base_offset < to_offset
       and s.base_offset >= coalesce((select max(f.base_offset) from pgq.segment f
                                       where f.partition_id = _segments_between.partition_id and f.base_offset <= from_offset), 0)
       and s.end_offset > from_offset
     order by s.base_offset
$$;
