-- Bounds of the segment that an offset belongs to; nulls if there is none.
-- Readers read segments by name, never through the tree above them: docs/decisions/0002.
create or replace function pgq._segment_at(partition_id int, "offset" bigint, out base_offset bigint, out end_offset bigint)
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select s.base_offset, s.end_offset
      from (select s.base_offset, s.end_offset from pgq.segment s
             where s.partition_id = _segment_at.partition_id and s.base_offset <= _segment_at."offset"
             order by s.base_offset desc limit 1) s
     where s.end_offset > _segment_at."offset"
$$;
