-- Offset of the first record of a partition with that timestamp or a later one, or null if there is none below the
-- high watermark.
--
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ010 (NotLeaderError)
create or replace function pgq.offsets_for_times(topic text, partition int, "timestamp" timestamptz)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition;
begin
    perform pgq._check_leader();
    for attempt in 1 .. 5 loop
        part := pgq._partition(topic, partition);
        if "timestamp" is null then
            return null;
        end if;
        begin
            return pgq._first_offset(part.partition_id, part.log_start_offset,
                                     pgq._high_watermark(part.partition_id, part.sequence), "timestamp");
        exception when undefined_table or internal_error then
            -- a segment went away meanwhile: the next look knows
            if attempt = 5 then
                raise;
            end if;
        end;
    end loop;
end
$$;
