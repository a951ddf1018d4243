-- Decide what a reader does whose next record, at "offset", is missing.
--
-- returns next_offset     where to read on: the first record at or after "offset" below the watermark, else the
--                         watermark; "offset" itself if that is not decided yet
--         high_watermark  offsets below it that a later snapshot does not show were rolled back: step over them
-- transaction  READ COMMITTED. Call it in one of its own (see pgq._flush_wal) and read the rows after it
-- raises  PQ001 (UnknownTopicError) when the partition is gone, PQ008 (OffsetOutOfRangeError), PQ009, PQ010, PQ011
create or replace function pgq._settle(partition_id int, "offset" bigint, out next_offset bigint, out high_watermark bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    part pgq.partition;
    start_offset bigint;
begin
    select p.* into part from pgq.partition p where p.partition_id = _settle.partition_id;
    if not found then
        raise exception 'unknown topic: it was deleted'
            using errcode = 'PQ001', hint = 'Create it with pgq.create_topic, or see pgq.list_topics().';
    end if;
    perform pgq._check_fetch(part.topic_id);
    high_watermark := pgq._high_watermark(partition_id, part.sequence);
    next_offset := "offset";
    if high_watermark > "offset" then
        for attempt in 1 .. 5 loop
            begin
                next_offset := coalesce(pgq._first_offset(partition_id, "offset", high_watermark), high_watermark);
                exit;
            exception when undefined_table or internal_error then
                -- a segment went away meanwhile: below the log start, or into another one by compaction
                if attempt = 5 and exists (select from pgq.partition p where p.partition_id = _settle.partition_id) then
                    raise;
                end if;
            end;
        end loop;
        perform pgq._flush_wal();
    elsif "offset" > pgq._next_offset(part.sequence) then
        perform pgq._raise_offset_out_of_range(partition_id, "offset", part.log_start_offset,
                                               pgq._next_offset(part.sequence));
    end if;
    -- last, with a later snapshot than the rows: else deleted records would pass for rolled-back ones
    select p.log_start_offset into start_offset from pgq.partition p where p.partition_id = _settle.partition_id;
    if "offset" < start_offset and "offset" < pgq._least_position(partition_id, start_offset) then
        perform pgq._raise_offset_out_of_range(partition_id, "offset", start_offset, high_watermark);
    end if;
    if start_offset is null then
        raise exception 'unknown topic: it was deleted'
            using errcode = 'PQ001', hint = 'Create it with pgq.create_topic, or see pgq.list_topics().';
    end if;
end
$$;
