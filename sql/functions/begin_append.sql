-- Take offsets in partitions, by the append rule; the caller then inserts exactly these rows into pgq_log.t<topic_id>.
-- What pgq.produce_batch and the clients' COPY begin with.
--
-- topic_ids, partitions, counts  parallel arrays: how many offsets in which partition; a partition once; 100 at most
-- returns a row a partition: its offsets, ascending but maybe with gaps, and whether upkeep is due (pgq.upkeep)
-- transaction  joins the caller's, which must insert in the same one and at the same savepoint level or below it:
--              after ROLLBACK TO a savepoint before this call the offsets are void. Works in every isolation level
-- locks   APPEND and PARK, shared: once a transaction and partition, until its end
-- raises  PQ002 (UnknownPartitionError) if one does not exist, PQ023 (InvalidRequestError) for more than 100
create or replace function pgq.begin_append(topic_ids int[], partitions int[], counts int[])
returns table (topic_id int, partition int, partition_id int, offsets bigint[], upkeep_due boolean)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    part record;
    mark text;
    locked boolean;
    found_partitions int := 0;
begin
    if cardinality(topic_ids) > 100 then
        raise exception 'an append to % partitions at once', cardinality(topic_ids)
            using errcode = 'PQ023',
                  hint = 'Each takes several locks of the table that all sessions share: append to 100 at most in a call, and'
                         ' in a transaction.';
    end if;
    for part in
        select p.partition_id, p.topic_id, p.partition, p.sequence, w.count,
               (last.base_offset + last.end_offset) / 2 as half
          from unnest(begin_append.topic_ids, begin_append.partitions, begin_append.counts) w (topic_id, partition, count)
          join pgq.partition p on p.topic_id = w.topic_id and p.partition = w.partition
         cross join lateral (select s.base_offset, s.end_offset from pgq.segment s
                              where s.partition_id = p.partition_id order by s.base_offset desc limit 1) last
         order by p.partition_id
    loop
        found_partitions := found_partitions + 1;
        mark := ',' || part.partition_id || ',';
        -- pgq._append_key, pgq._next_offset and pgq._park_key, written out, and as one expression, which needs no executor: a flush
        -- touches up to 100 partitions
        locked := coalesce(strpos(current_setting('pgq.append', true), mark), 0) > 0
            or (pg_advisory_xact_lock_shared((23::bigint << 58) | (part.partition_id::bigint << 40) | ((coalesce(pg_sequence_last_value(part.sequence), -1) + 1) & 1099511627775)) is not null
                and (pg_try_advisory_xact_lock_shared((24::bigint << 58) | part.topic_id) or pgq._wake(part.topic_id))
                and set_config('pgq.append', concat(current_setting('pgq.append', true), mark), true) is not null);
        offsets := array(select nextval(part.sequence) from generate_series(1, part.count));
        upkeep_due := offsets[part.count] >= part.half;
        if offsets[part.count] >= coalesce(nullif(current_setting('pgq.covered_' || part.partition_id, true), ''), '0')::bigint then
            perform pgq._cover_offset(part.partition_id, offsets[1], offsets[part.count]);
        end if;
        topic_id := part.topic_id;
        partition := part.partition;
        partition_id := part.partition_id;
        return next;
    end loop;
    if found_partitions is distinct from cardinality(topic_ids) then
        raise exception 'a partition to append to does not exist (any more)'
            using errcode = 'PQ002', hint = 'The topic was deleted, perhaps made again: ask for its id once more.';
    end if;
exception when undefined_table or internal_error then
    -- "could not open relation": the topic was deleted while this waited for it
    if (select count(*) from unnest(topic_ids, partitions) w (topic_id, partition)
          join pgq.topic t on t.topic_id = w.topic_id and t.state = 'ready'
          join pgq.partition p on p.topic_id = w.topic_id and p.partition = w.partition) < cardinality(topic_ids) then
        raise exception 'a partition to append to does not exist any more'
            using errcode = 'PQ002', hint = 'The topic was deleted: ask for its id once more.';
    end if;
    raise;
end
$$;
