-- Read records of a partition in order, from an offset on, without a skip.
--
-- topic, partition  where
-- "offset"          the first to return; go on from the last one returned + 1
-- max_records       the most that is returned
-- returns records below the high watermark, and beyond it the unbroken run. Nothing when there is nothing to read yet,
--                   and, with min.insync.replicas, while too few servers have what there is
-- transaction       READ COMMITTED only. What is returned, and stepped over, survives a crash of the server; up to
--                   PostgreSQL 16 once this transaction has committed
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ008 (OffsetOutOfRangeError),
--         PQ009 (IsolationLevelError), PQ010 (NotLeaderError), PQ011 (FetchAfterProduceError)
create or replace function pgq.fetch(topic text, partition int, "offset" bigint, max_records int default 500)
returns setof pgq.consumer_record
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    part pgq.partition := pgq._partition(topic, partition);
    low bigint := "offset";
    high bigint;
    stop bigint;
    more int := max_records;
    returned int;
    last_offset constant bigint := 9223372036854775807;
    run record;
    segment record;
    start_offset bigint;
begin
    if max_records is null or max_records < 1 then
        raise exception 'max_records must be at least 1, not %', coalesce(max_records::text, 'NULL')
            using errcode = 'invalid_parameter_value';
    end if;
    if "offset" is null or "offset" < 0 then
        perform pgq._raise_offset_out_of_range(part.partition_id, "offset", part.log_start_offset,
                                               pgq._next_offset(part.sequence));
    end if;
    perform pgq._check_fetch(part.topic_id);
    stop := low + least(max_records, last_offset - low);
    for attempt in 1 .. 5 loop
        begin
            -- a window without a hole needs no watermark. Re-read at a hole: most are filled within milliseconds
            for reread in 1 .. 3 loop
                run := pgq._run(part.partition_id, low, stop);
                exit when run.run_end = run.window_end;
            end loop;
            high := run.run_end;
            if run.run_end is distinct from run.window_end then
                select s.next_offset, s.high_watermark into low, high from pgq._settle(part.partition_id, low) s;
                -- what lies below the watermark, however far apart, and the unbroken run from there
                stop := greatest(high, low + least(more, last_offset - low));
                high := (pgq._run(part.partition_id, greatest(low, high), stop)).run_end;
            end if;
            if high > low and not pgq._reads_are_safe(part.partition_id) then
                return;
            end if;
            for segment in select * from pgq._segments_between(part.partition_id, low, least(high, stop)) loop
                return query execute format('select partition, "offset", "timestamp", key, value, header_keys, header_values, codec'
                    ' from %s where "offset" >= $1 and "offset" < $2 order by "offset" limit $3', segment.relation)
                    using segment.low, segment.high, more;
                get diagnostics returned = row_count;
                more := more - returned;
                exit when more = 0;
                low := segment.high;
            end loop;
            exit;
        exception when undefined_table or internal_error then
            -- a segment went away while this waited for it or looked for it: with its topic, by retention, or because
            -- compaction has put it together with another one. What was returned so far stays
            perform pgq._partition(topic, partition);
            if attempt = 5 then
                raise;
            end if;
        end;
    end loop;
    -- after the rows and with a later snapshot
    select p.log_start_offset into start_offset from pgq.partition p where p.partition_id = part.partition_id;
    if "offset" < start_offset and "offset" < pgq._least_position(part.partition_id, start_offset) then
        perform pgq._raise_offset_out_of_range(part.partition_id, "offset", start_offset,
                                               pgq._next_offset(part.sequence));
    end if;
end
$$;
