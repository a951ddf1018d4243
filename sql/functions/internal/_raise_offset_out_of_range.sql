-- Say that an offset lies outside a partition's log.
--
-- raises  PQ008 (OffsetOutOfRangeError), always
create or replace function pgq._raise_offset_out_of_range(partition_id int, "offset" bigint, log_start_offset bigint, log_end_offset bigint)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    raise exception 'offset % is out of range of partition % of topic %: % to %', coalesce("offset"::text, 'NULL'),
        (select p.partition from pgq.partition p where p.partition_id = _raise_offset_out_of_range.partition_id),
        (select quote_literal(t.name) from pgq.topic t join pgq.partition p using (topic_id)
          where p.partition_id = _raise_offset_out_of_range.partition_id), log_start_offset, log_end_offset
        using errcode = 'PQ008',
              hint = 'Start again from pgq.log_start_offset, or from pgq.high_watermark to skip what is there.';
end
$$;
