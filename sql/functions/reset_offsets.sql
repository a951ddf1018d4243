-- Work out other committed offsets for a group, and store them if told so.
--
-- spec    'to-earliest', 'to-latest'   the log start; the high watermark
--         'to-current'     what is committed, else the high watermark
--         'to-offset'      value, or what offsets says
--         'shift-by'       what is committed, and so many more; value may be negative
--         'to-datetime'    the first record of that time or later, else the high watermark
--         'by-duration'    the same, for so long ago: an ISO-8601 duration (PnDTnHnMnS), or numbers with units (7d, 12h, 30m, 45s)
-- value   a number, a time or a duration, as the spec has it; without a time zone a time is the session's
-- topics, partitions  parallel arrays; null partitions, or a null element: every partition of the topic. Null topics: every
--         partition that the group has committed an offset for
-- offsets  parallel to topics and partitions, for 'to-offset'
-- execute  whether to store them; nothing is changed otherwise. A group that does not exist is made then, if topics are named
-- returns a row a partition: what is committed, and what is or would be instead; clamped: that is the log start or the
--         high watermark, since what was asked for lies outside of them
-- transaction  joins the caller's
-- locks   the group's row, the owners' rows, if it is executed: nobody joins meanwhile
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ010 (NotLeaderError), PQ019 (InvalidGroupIdError),
--         PQ021 (NoOffsetForPartitionError): nothing to shift, PQ023 (InvalidRequestError), PQ039 (NonEmptyGroupError): only if
--         executed, PQ040 (GroupIdNotFoundError): it does not exist, and no topics are named
-- source  kafka-consumer-groups --reset-offsets
create or replace function pgq.reset_offsets(
    group_id text, spec text, value text default null, topics text[] default null, partitions int[] default null,
    offsets bigint[] default null, execute boolean default false)
returns table (topic text, partition int, current_offset bigint, new_offset bigint, clamped boolean)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    id int;
    number bigint;
    since timestamptz;
    part record;
    ids int[] := '{}';
    stored bigint[] := '{}';
begin
    perform pgq._check_leader();
    perform pgq._check_group_id(group_id);
    if spec is null or spec not in ('to-earliest', 'to-latest', 'to-current', 'to-offset', 'shift-by', 'to-datetime', 'by-duration') then
        raise exception 'cannot reset offsets %', coalesce(quote_literal(spec), 'NULL')
            using errcode = 'PQ023',
                  hint = 'Give to-earliest, to-latest, to-current, to-offset, shift-by, to-datetime or by-duration.';
    end if;
    if (value is null) <> (spec in ('to-earliest', 'to-latest', 'to-current') or spec = 'to-offset' and offsets is not null)
       or offsets is not null and (spec <> 'to-offset' or cardinality(offsets) is distinct from cardinality(partitions)
                                   or array_position(offsets, null) is not null or array_position(partitions, null) is not null) then
        raise exception 'cannot reset offsets % with value % and % offsets', spec, coalesce(quote_literal(value), 'NULL'), coalesce(cardinality(offsets), 0)
            using errcode = 'PQ023',
                  hint = 'to-offset, shift-by, to-datetime and by-duration take a value; to-offset can have offsets instead, one a partition.';
    end if;
    begin
        case spec
            when 'to-offset', 'shift-by' then number := value::bigint;
            when 'to-datetime' then since := value::timestamptz;
            when 'by-duration' then since := clock_timestamp() - pgq._duration(value);
            else null;
        end case;
    exception when data_exception then
        raise exception 'cannot reset offsets % %', spec, quote_literal(value)
            using errcode = 'PQ023', hint = 'It is a whole number, a time such as 2026-05-31T12:00:00Z, or a duration such as P1DT12H.';
    end;

    if execute then
        if topics is not null then
            perform pgq._group(group_id);
        end if;
        id := pgq._lock_empty_group(group_id);
    else
        select g.consumer_group_id into id from pgq.consumer_group g where g.name = group_id;
        if not found and topics is null then
            perform pgq._lock_group(group_id);
        end if;
    end if;
    if offsets is not null
       and cardinality(offsets) <> (select count(*) from pgq._named_partitions(reset_offsets.topics, reset_offsets.partitions)) then
        raise exception 'a partition stands there twice' using errcode = 'PQ023', hint = 'Give one offset for each partition.';
    end if;

    for part in
        with named as (
            select n.* from pgq._named_partitions(reset_offsets.topics, reset_offsets.partitions) n where reset_offsets.topics is not null
            union all
            select p.partition_id, c.topic, c.partition, p.log_start_offset, null
              from pgq.committed_offsets(reset_offsets.group_id) c join pgq.topic t on t.name = c.topic
              join pgq.partition p on p.topic_id = t.topic_id and p.partition = c.partition
             where reset_offsets.topics is null and t.state = 'ready'
        )
        select n.partition_id, n.topic, n.partition, n.log_start_offset, w.high_watermark,
               (select c."offset" from pgq.committed_offset c
                 where c.consumer_group_id = id and c.partition_id = n.partition_id order by c.serial desc limit 1) as committed,
               coalesce(reset_offsets.offsets[n.nth], number) as wanted
          from named n join pgq._partition_progress() w using (partition_id)
         order by n.topic, n.partition
    loop
        if spec = 'shift-by' and part.committed is null then
            raise exception 'group % has committed nothing for partition % of topic %', quote_literal(group_id), part.partition, quote_literal(part.topic)
                using errcode = 'PQ021', hint = 'There is nothing to shift: reset it to-earliest, to-latest or to-offset.';
        end if;
        new_offset := case spec
            when 'to-earliest' then part.log_start_offset
            when 'to-latest' then part.high_watermark
            when 'to-current' then coalesce(part.committed, part.high_watermark)
            when 'to-offset' then part.wanted
            -- as numeric: the sum may be beyond a bigint
            when 'shift-by' then least(greatest(part.committed::numeric + number, -1), 9223372036854775807)::bigint
            else coalesce((pgq._first_record(part.partition_id, part.log_start_offset, part.high_watermark, since))."offset",
                          part.high_watermark) end;
        clamped := new_offset < part.log_start_offset or new_offset > part.high_watermark;
        new_offset := greatest(least(new_offset, part.high_watermark), part.log_start_offset);
        topic := part.topic;
        partition := part.partition;
        current_offset := part.committed;
        ids := ids || part.partition_id;
        stored := stored || new_offset;
        return next;
    end loop;
    if execute then
        perform pgq._store_offsets(id, ids, stored);
    end if;
end
$$;
