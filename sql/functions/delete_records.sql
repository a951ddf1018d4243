-- Move the log start of a partition, so that earlier records can no longer be read; returns the log start.
-- Space comes back when whole segments lie below it.
--
-- "offset"     the new log start, at most the high watermark; -1: the high watermark. An earlier log start stays
-- transaction  joins the caller's
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ008 (OffsetOutOfRangeError), PQ010 (NotLeaderError)
-- source  Kafka's DeleteRecords
create or replace function pgq.delete_records(topic text, partition int, "offset" bigint)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition := pgq._partition(topic, partition);
    high_watermark bigint := pgq.high_watermark(topic, partition);
    result bigint;
begin
    if "offset" is null or "offset" < -1 or "offset" > high_watermark then
        perform pgq._raise_offset_out_of_range(part.partition_id, "offset", part.log_start_offset, high_watermark);
    end if;
    update pgq.partition p
       set log_start_offset = greatest(p.log_start_offset, case when "offset" = -1 then high_watermark else "offset" end)
     where p.partition_id = part.partition_id
    returning p.log_start_offset into result;
    return result;
end
$$;
