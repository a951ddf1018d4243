-- Move records that a group could not process to its retry topic, when they are due, or to its dead letter topic. Call it in the
-- transaction that commits the group's offsets beyond them: then each is in one place, whatever happens.
--
-- group_id  whose topics they are moved to (pgq.create_retry_topics; made here if they are missing)
-- topics, partitions, offsets  parallel arrays: the records, as they were read. One that was read from the group's retry topic
--           keeps its origin and its count of attempts
-- due_ats   when to try again; null: never, it goes to the dead letter topic
-- errors    why it failed; the first 1,000 characters are kept
-- attempts  how often it has been tried in all, from 1 on; null: once more than its headers say
-- returns how many were moved: not those that retention or compaction has removed since they were read
-- transaction  joins the caller's, READ COMMITTED. The records are copied as they stand in the log; headers named pgq.… say where they come from, how
--           often they were tried and why that failed
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ004 (InvalidTopicError): no retry topic can be made, since a
--         name would be illegal or another topic's; PQ009 (IsolationLevelError); PQ017 (InvalidTimestampError): more than ten years ahead;
--         PQ019 (InvalidGroupIdError), PQ023 (InvalidRequestError): arrays of different lengths, attempts below 1, or more than 100
--         different hours
-- locks   DELAY, shared, once a transaction, until its end; and those of pgq.begin_append for the dead letter topics
create or replace function pgq.fail_records(
    group_id text, topics text[], partitions int[], offsets bigint[], due_ats timestamptz[], errors text[],
    attempts int[] default null)
returns int
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    result int := 0;
    part pgq.partition;
    kept pgq.consumer_record;
    headers record;
    target record;
    now_at timestamptz;
    due_at timestamptz;
    retries_of text;
    taken bigint;
begin
    perform pgq._check_group_id(group_id);
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'cannot move records that failed in a % transaction', upper(current_setting('transaction_isolation'))
            using errcode = 'PQ009', hint = 'Its snapshot may be older than the records, which would be lost: use READ COMMITTED.';
    end if;
    if (select count(distinct date_trunc('hour', d, 'UTC')) from unnest(due_ats) d) > 100 then
        raise exception 'records that failed and are due in more than 100 different hours'
            using errcode = 'PQ023', hint = 'Each hour has a table, whose locks the transaction holds: move them in several transactions.';
    end if;
    if (cardinality(topics) = all (array[cardinality(partitions), cardinality(offsets), cardinality(due_ats), cardinality(errors),
                                         coalesce(cardinality(attempts), cardinality(topics))])) is not true then
        raise exception 'fail_records: arrays of different lengths'
            using errcode = 'PQ023', hint = 'Give a partition, an offset, a time or null, and an error or null for each topic.';
    end if;
    if 1 > any (attempts) then
        raise exception 'a record cannot have been tried % times', (select min(a) from unnest(attempts) a)
            using errcode = 'PQ023', hint = 'Give how often each has been tried in all, or null for once more than its headers say.';
    end if;
    for i in 1 .. cardinality(topics) loop
        part := pgq._partition(topics[i], partitions[i]);
        kept := pgq._record_at(part.partition_id, offsets[i]);
        continue when kept."offset" is null;
        if due_ats[i] is not null then
            now_at := pgq._begin_delay();
            if due_ats[i] > now_at + interval '10 years' then
                raise exception 'a record cannot be delivered at %', due_ats[i]
                    using errcode = 'PQ017', hint = 'Give a time within the next ten years.';
            end if;
            due_at := greatest(date_trunc('milliseconds', due_ats[i]), now_at);
        else
            due_at := null;
        end if;
        retries_of := (select f.origin from pgq.failure_topic f
                        where f.topic_id = part.topic_id and f.kind = 'retry' and f.group_id = fail_records.group_id);
        headers := pgq._failure_headers(
            kept.header_keys, kept.header_values, group_id, topics[i], partitions[i], offsets[i], kept."timestamp",
            retries_of is not null, due_at, errors[i], attempts[i]);
        target := pgq._failure_target(coalesce(retries_of, topics[i]), group_id, case when due_at is null then 'dead letter' else 'retry' end, kept.key);
        if due_at is not null then
            execute format('insert into %s (due_at, serial, topic_id, partition, key, value, header_keys, header_values, codec)'
                           ' values ($1, $2, $3, $4, $5, $6, $7, $8, $9)', pgq._delay_bucket(due_at))
                using due_at, nextval('pgq_log.delayed_serial'), target.topic_id, target.partition, kept.key, kept.value,
                      headers.header_keys, headers.header_values, kept.codec;
        else
            select a.offsets[1] into taken
              from pgq.begin_append(array[target.topic_id], array[target.partition], array[1]) a;
            execute format('insert into pgq_log.t%s (partition, "offset", "timestamp", key, value, header_keys, header_values, codec)'
                           ' values ($1, $2, date_trunc(''milliseconds'', clock_timestamp()), $3, $4, $5, $6, $7)', target.topic_id)
                using target.partition, taken, kept.key, kept.value, headers.header_keys, headers.header_values, kept.codec;
        end if;
        result := result + 1;
    end loop;
    return result;
end
$$;
