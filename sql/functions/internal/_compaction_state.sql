-- What there is to compact in a partition. Decides, and changes nothing.
--
-- at      the time against which tombstones and records are old
-- returns end_offset       where the closed segments end that may be compacted; null if there is none. Those that
--                          were compacted before belong to them; the first other one with a record younger than
--                          min.compaction.lag.ms ends them
--         clean_to         how far the partition was compacted: from there on it is dirty
--         removable_below  tombstones below were met by a pass delete.retention.ms ago. That pass left one record a
--                          key, so nothing older comes back when they go, whatever the order of segments
--         due              half of the bytes are dirty, or there are tombstones to remove
-- source  Kafka's LogCleanerManager (min.cleanable.dirty.ratio 0.5), KIP-534 (delete horizon)
create or replace function pgq._compaction_state(
    part pgq.partition, at timestamptz,
    out end_offset bigint, out clean_to bigint, out removable_below bigint, out due boolean)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    lag_ms bigint := pgq._config_value(part.topic_id, 'min.compaction.lag.ms')::bigint;
    keep_ms bigint := pgq._config_value(part.topic_id, 'delete.retention.ms')::bigint;
    -- no clock was ever before 1970
    oldest_ms constant bigint := extract(epoch from at) * 1000;
    expired timestamptz := case when keep_ms <= oldest_ms then at - keep_ms * interval '1 millisecond' end;
    tombstones boolean;
    dirty bigint := 0;
    total bigint := 0;
    segment record;
begin
    select coalesce(max(c.clean_to), 0),
           coalesce(max(c.clean_to) filter (where c.cleaned_at <= expired), 0),
           coalesce(bool_or(c.tombstones > 0) filter (where c.cleaned_at <= expired), false)
      into clean_to, removable_below, tombstones
      from pgq.compaction c where c.partition_id = part.partition_id;
    for segment in
        select s.base_offset, s.end_offset, s.bytes,
               pgq._segment_name(part.topic_id, part.partition, s.base_offset) as leaf
          from pgq.segment s
         where s.partition_id = part.partition_id and s.end_offset > part.log_start_offset
         order by s.base_offset
    loop
        exit when segment.bytes is null or segment.base_offset <> end_offset;
        if segment.end_offset > clean_to then
            exit when lag_ms > oldest_ms
                   or lag_ms > 0 and pgq._is_younger(segment.leaf, at - lag_ms * interval '1 millisecond');
            dirty := dirty + segment.bytes;
        end if;
        total := total + segment.bytes;
        end_offset := segment.end_offset;
    end loop;
    due := end_offset is not null and (dirty > 0 and 2 * dirty >= total or tombstones);
end
$$;
