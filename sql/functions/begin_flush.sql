-- Begin a flush of a producer: see that it may and need be done, then take offsets in partitions, by the append rule. The
-- caller inserts exactly these rows into pgq_log.t<topic_id>, and commits. What the clients' flushes begin with.
--
-- topic_ids, partitions, counts  as for pgq.begin_append; empty if the flush has nothing for the log itself, only delayed records
--               (pgq._delay_records), which the caller has kept in the same transaction
-- newest_ms     parallel to them: the latest timestamp among each partition's records, in milliseconds since 1970
-- acks          '0', '1' or 'all': what the transaction's COMMIT is to wait for, by its synchronous_commit
-- producer_id   marks the flush, so that the same flush begun again finds it in the log; null leaves it unmarked
-- producer_epoch  of a producer with a transactional_id (pgq.init_producer), null for others
-- number        of the flush; a producer gives each its own, and the same to one begun again
-- rotation      what pgq.init_producer or the flush before returned; the same for a flush begun again
-- repeated      whether it was begun before, with an unknown outcome. Waits for a first attempt that still runs
-- returns a row a partition: its offsets, ascending but maybe with gaps; whether upkeep is due (pgq.upkeep); log_append_ms,
--         the timestamp to give the records of a topic with message.timestamp.type = LogAppendTime, else null; appended:
--         the flush is in the log already, with these offsets: commit without inserting. Then the commit waits as the
--         first attempt's should have; and the rotation to give with the next flush. A flush without partitions gets one
--         row, of the last two alone
-- transaction  joins the caller's, READ COMMITTED, which is for this flush alone: its synchronous_commit is set
-- locks   APPEND and PARK, shared, a partition; the producer's row, shared, with a producer_epoch
-- raises  PQ002 (UnknownPartitionError), PQ017 (InvalidTimestampError), PQ023 (InvalidRequestError),
--         PQ029 (NotEnoughReplicasError), PQ031 (ProducerFencedError), PQ032 (UnknownProducerIdError)
create or replace function pgq.begin_flush(
    topic_ids int[], partitions int[], counts int[], newest_ms bigint[], acks text, producer_id bigint, producer_epoch int,
    number bigint, rotation bigint, repeated boolean)
returns table (topic_id int, partition int, partition_id int, offsets bigint[], upkeep_due boolean, log_append_ms bigint,
               appended boolean, current_rotation bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    now_ms bigint := extract(epoch from clock_timestamp()) * 1000;
    wanted_replicas int;
    ahead_ms bigint;
    stamped int[];
    marked int8multirange[] := '{}';
begin
    perform set_config('synchronous_commit',
                       case acks when '0' then 'off' when '1' then 'local'
                                 else case current_setting('synchronous_commit') when 'remote_apply' then 'remote_apply' else 'on' end end,
                       true);
    if producer_epoch is not null then
        -- shared until the commit: whoever raises the epoch waits for it
        perform from pgq.producer p
          where p.producer_id = begin_flush.producer_id and p.producer_epoch = begin_flush.producer_epoch for share;
        if not found then
            raise exception 'another producer with this transactional_id has started'
                using errcode = 'PQ031', hint = 'Close this one; or, if both are wanted, give them different ids.';
        end if;
    end if;
    select r.rotation into current_rotation from pgq.flush_rotation r;
    appended := false;
    if repeated and producer_id is not null then
        for topic_id, partition, offsets in
            select m.topic_id, m.partition,
                   case when m.topic_id is not null
                        then array(select o from unnest(m.ranges) r, generate_series(lower(r), upper(r) - 1) o order by o) end
              from pgq.flush_marker f
              left join unnest(f.topic_ids, f.partitions, f.offsets) m (topic_id, partition, ranges) on true
             where f.slot = (begin_flush.rotation & 3)::int and f.producer_id = begin_flush.producer_id
               and f.producer_epoch = coalesce(begin_flush.producer_epoch, 0) and f.number = begin_flush.number
        loop
            if not appended then
                -- without something written the commit would wait for nobody, though the first attempt's may have been cut short
                perform pg_logical_emit_message(true, 'pgq', '');
            end if;
            appended := true;
            upkeep_due := false;
            return next;
        end loop;
        if appended then
            return;
        end if;
    end if;
    select max(coalesce(t.config -> replicas.key, replicas.default_value)::int),
           array_agg(t.topic_id) filter (where coalesce(t.config -> clock.key, clock.default_value) = '"LogAppendTime"'),
           max(w.newest_ms - now_ms - coalesce(t.config -> after.key, after.default_value)::bigint)
               filter (where coalesce(t.config -> clock.key, clock.default_value) <> '"LogAppendTime"')
      into wanted_replicas, stamped, ahead_ms
      from unnest(begin_flush.topic_ids, begin_flush.newest_ms) w (topic_id, newest_ms)
      join pgq.topic t using (topic_id)
      join pgq.topic_config replicas on replicas.key = 'min.insync.replicas'
      join pgq.topic_config clock on clock.key = 'message.timestamp.type'
      join pgq.topic_config after on after.key = 'message.timestamp.after.max.ms';
    if ahead_ms > 0 then
        raise exception 'a timestamp is % ms further ahead of the server''s clock than message.timestamp.after.max.ms allows', ahead_ms
            using errcode = 'PQ017', hint = 'Set this machine''s clock, or the topic''s configuration.';
    end if;
    if wanted_replicas > 1 and acks not in ('0', '1') then
        perform pgq._check_replicas(wanted_replicas);
    end if;
    for topic_id, partition, partition_id, offsets, upkeep_due in
        select a.topic_id, a.partition, a.partition_id, a.offsets, a.upkeep_due
          from pgq.begin_append(begin_flush.topic_ids, begin_flush.partitions, begin_flush.counts) a
    loop
        log_append_ms := case when topic_id = any (stamped) then now_ms end;
        topic_ids[cardinality(marked) + 1] := topic_id;
        partitions[cardinality(marked) + 1] := partition;
        marked := marked || case when offsets[cardinality(offsets)] - offsets[1] = cardinality(offsets) - 1
                                 then int8multirange(int8range(offsets[1], offsets[cardinality(offsets)] + 1))
                                 else (select range_agg(int8range(o, o + 1)) from unnest(offsets) o) end;
        return next;
    end loop;
    if not found then
        return next;
    end if;
    if producer_id is not null then
        insert into pgq.flush_marker (slot, producer_id, producer_epoch, number, topic_ids, partitions, offsets)
        values ((begin_flush.rotation & 3)::int, begin_flush.producer_id, coalesce(begin_flush.producer_epoch, 0), begin_flush.number,
                begin_flush.topic_ids, begin_flush.partitions, marked)
            on conflict do nothing;
        if not found then
            raise exception 'this flush was in the log before, as its first attempt has just ended'
                using errcode = 'serialization_failure', hint = 'Begin it again.';
        end if;
        -- in a later snapshot, and with the slot's lock: from here on it is not emptied before the commit
        select r.rotation into current_rotation from pgq.flush_rotation r;
        if rotation > current_rotation or rotation < current_rotation - (case when repeated then 2 else 1 end) then
            raise exception 'the marker of this flush would be too old: rotation % of %', rotation, current_rotation
                using errcode = 'PQ032', hint = 'Begin it with the current rotation, unless it was begun before.';
        end if;
    end if;
end
$$;
