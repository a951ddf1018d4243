-- What retention says of a partition: up to where its log is to be deleted. Decides, and changes nothing.
--
-- at      the time against which records are old
-- returns log_start   the new log start: the end of the last segment that goes, in order from the oldest; the log start as
--                     it is, if none goes. Never beyond the high watermark
--         roll_first  whether the active segment goes as well, once it is rolled
-- locks   none that outlive the look
-- source  Kafka's UnifiedLog.deleteOldSegments: segments below the log start; then while the log without the oldest still has
--         retention.bytes; then while the latest timestamp of the oldest is more than retention.ms ago. The active segment
--         is not exempt
--
-- Below the log start are also those of which nothing can be read any more. In Kafka a segment ends where the next one begins,
-- with the last record; here a roll skips what is left of it, and the log start has to pass over that. An active segment of
-- which all is deleted is rolled if that gives back a mebibyte.
create or replace function pgq._expired(
    part pgq.partition, at timestamptz, out log_start bigint, out roll_first boolean)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    next_offset bigint := pgq._peek_offset(part.sequence);
    high_watermark bigint := pgq._watermark_below(part.partition_id, next_offset);
    keep_ms bigint;
    keep_bytes bigint;
    total bigint;
    since timestamptz;
    segment record;
begin
    log_start := part.log_start_offset;
    roll_first := false;
    select s.end_offset, pgq._segment_name(part.topic_id, part.partition, s.base_offset) as leaf into segment
      from pgq.segment s
     where s.partition_id = part.partition_id and s.base_offset < log_start and s.end_offset > log_start;
    if found and high_watermark >= least(segment.end_offset, next_offset) and to_regclass(segment.leaf) is not null
       and pgq._last_offset(segment.leaf, log_start) is null then
        if high_watermark >= segment.end_offset then
            log_start := segment.end_offset;
        elsif pg_total_relation_size(to_regclass(segment.leaf)) >= 1048576 then
            roll_first := true;
            return;
        end if;
    end if;
    if pgq._config_value(part.topic_id, 'cleanup.policy') = 'compact' then
        return;
    end if;
    keep_ms := pgq._config_value(part.topic_id, 'retention.ms')::bigint;
    keep_bytes := pgq._config_value(part.topic_id, 'retention.bytes')::bigint;
    -- no record is older than 1970, and no timestamp than year -4712. A segment without any record is always old
    if keep_ms >= 0 then
        since := case when keep_ms <= extract(epoch from at) * 1000 then at - keep_ms * interval '1 millisecond' else '-infinity' end;
    end if;
    if keep_bytes >= 0 then
        select sum(coalesce(s.bytes, pg_total_relation_size(to_regclass(pgq._segment_name(part.topic_id, part.partition, s.base_offset))), 0))
          into total
          from pgq.segment s
         where s.partition_id = part.partition_id and s.base_offset < next_offset and s.end_offset > log_start;
    end if;
    for segment in
        select s.end_offset, s.bytes, pgq._segment_name(part.topic_id, part.partition, s.base_offset) as leaf
          from pgq.segment s
         where s.partition_id = part.partition_id and s.base_offset < next_offset and s.end_offset > log_start
         order by s.base_offset
    loop
        -- an open transaction may still add to it; or it is gone, which pgq.check_log tells
        exit when high_watermark < least(segment.end_offset, next_offset) or to_regclass(segment.leaf) is null;
        if keep_bytes >= 0 then
            total := total - coalesce(segment.bytes, pg_total_relation_size(to_regclass(segment.leaf)));
        end if;
        if keep_bytes < 0 or (total >= keep_bytes) is not true then
            -- a sum that has once become too small stays so. One that is not known keeps
            exit when since is null or pgq._is_younger(segment.leaf, since);
        end if;
        if high_watermark < segment.end_offset then
            roll_first := true;
            exit;
        end if;
        log_start := segment.end_offset;
    end loop;
end
$$;
