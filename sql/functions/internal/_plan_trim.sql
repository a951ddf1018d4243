-- Work out where logs of a topic would start, and how many records that would delete; changes nothing. For `pgq topic trim`,
-- which then calls pgq.delete_records.
--
-- partitions  null: all
-- spec    'to-latest'    the high watermark
--         'to-offset'    value
--         'to-datetime'  the first record of that time or later, else the high watermark
--         'by-duration'  the same, for so long ago: an ISO-8601 duration (PnDTnHnMnS), or numbers with units (7d, 12h, 30m, 45s)
-- returns a row a partition. new_log_start_offset is at least log_start_offset. records: without the offsets that rolls skipped;
--         rolled-back offsets are counted
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ008 (OffsetOutOfRangeError), PQ010 (NotLeaderError),
--         PQ023 (InvalidRequestError)
create or replace function pgq._plan_trim(topic text, partitions int[], spec text, value text)
returns table (partition int, log_start_offset bigint, new_log_start_offset bigint, records bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    part record;
    wanted bigint;
    since timestamptz;
begin
    perform pgq._check_leader();
    begin
        case spec
            when 'to-latest' then null;
            when 'to-offset' then wanted := value::bigint;
            when 'to-datetime' then since := value::timestamptz;
            when 'by-duration' then since := clock_timestamp() - pgq._duration(value);
        end case;
    exception when data_exception then
        raise exception 'cannot trim a log % %', spec, quote_literal(value)
            using errcode = 'PQ023', hint = 'It is an offset, a time such as 2026-05-31T12:00:00Z, or a duration with units such as 7d, 12h, 30m, 45s or P7D.';
    end;
    for part in
        select n.partition_id, n.partition, n.log_start_offset, w.high_watermark
          from pgq._named_partitions(
                   case when _plan_trim.partitions is null then array[_plan_trim.topic]
                        else array_fill(_plan_trim.topic, array[cardinality(_plan_trim.partitions)]) end,
                   coalesce(_plan_trim.partitions, array[null]::int[])) n
          join pgq._partition_progress() w using (partition_id)
         order by n.partition
    loop
        if wanted < 0 or wanted > part.high_watermark then
            perform pgq._raise_offset_out_of_range(part.partition_id, wanted, part.log_start_offset, part.high_watermark);
        end if;
        partition := part.partition;
        log_start_offset := part.log_start_offset;
        new_log_start_offset := greatest(part.log_start_offset, case spec
            when 'to-latest' then part.high_watermark
            when 'to-offset' then wanted
            else coalesce((pgq._first_record(part.partition_id, part.log_start_offset, part.high_watermark, since))."offset",
                          part.high_watermark) end);
        records := new_log_start_offset - part.log_start_offset - coalesce(
            (select sum(greatest(0, least(r.to_offset, new_log_start_offset) - greatest(r.from_offset, part.log_start_offset)))
               from pgq.skipped_range r
              where r.partition_id = part.partition_id and r.to_offset > part.log_start_offset), 0);
        return next;
    end loop;
end
$$;
