-- How many offsets the next segment of a partition shall span: as many as fill segment.bytes at the mean size of the
-- records last written; 4,096 at first, at most 16 times the segment before, 64 to 1,048,576.
--
-- A width cannot bound bytes, since the records are not known yet: pgq._roll_segment does.
create or replace function pgq._segment_width(partition_id int, base bigint)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition;
    next_offset bigint;
    used bigint;
    last record;
    bytes bigint;
begin
    select p.* into part from pgq.partition p where p.partition_id = _segment_width.partition_id;
    next_offset := pgq._next_offset(part.sequence);
    select s.base_offset, s.end_offset, s.end_offset - s.base_offset as width into last
      from pgq.segment s
     where s.partition_id = _segment_width.partition_id and s.base_offset < base
     order by s.base_offset < next_offset desc, s.base_offset desc limit 1;
    if not found then
        return 4096;
    end if;
    used := least(next_offset, last.end_offset) - last.base_offset - coalesce(
        (select sum(r.to_offset - r.from_offset) from pgq.skipped_range r
          where r.partition_id = _segment_width.partition_id and r.from_offset >= last.base_offset and r.to_offset <= last.end_offset), 0);
    bytes := pg_total_relation_size(to_regclass(
        format('pgq_log.t%s_p%s_s%s', part.topic_id, part.partition, last.base_offset)));
    if used <= 0 or bytes is null then
        return last.width;
    end if;
    -- below a mebibyte the fixed pages of an empty segment hide what its records take
    return greatest(64, least(1048576, last.width * 16,
                              case when bytes >= 1048576
                                   then pgq._segment_bytes(part.topic_id) * used / bytes end));
end
$$;
