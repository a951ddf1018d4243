-- Send dead letters back to the retry topics of the groups that could not process them, where they are due at once.
--
-- topic, group_id, error, since, until  which, as pgq.dead_letters has it
-- most     how many at most; call again for more
-- execute  whether to do it; nothing is changed otherwise
-- returns those that are sent, or that the next call with execute would send, oldest failure first: where they are and were first,
--         as pgq.dead_letters has it, and retry_topic, where they go. No more than go to 100 partitions of retry topics in all
-- transaction  joins the caller's; READ COMMITTED only. They are appended as they are, by their keys, but for headers: pgq.attempt is
--         0, pgq.redriven one more, pgq.due is gone. In the same transaction they are marked as redriven, and the log starts of dead
--         letter topics move up to the first record that is not settled: so each is sent once, also by calls at the same time
-- locks   DEAD LETTER of the dead letter topics that they are in, the rows of their partitions, and what pgq.begin_append takes
-- raises  PQ001 (UnknownTopicError): also if a group has no retry topic any more, PQ009 (IsolationLevelError), PQ010 (NotLeaderError),
--         PQ023 (InvalidRequestError), PQ029 (NotEnoughReplicasError), PQ040 (GroupIdNotFoundError)
create or replace function pgq.redrive_dead_letters(
    topic text default null, group_id text default null, error text default null, since timestamptz default null,
    until timestamptz default null, most int default 100, execute boolean default false)
returns table (topic text, group_id text, dead_letter_topic text, partition int, "offset" bigint, origin_partition int,
               origin_offset bigint, failed_at timestamptz, last_error text, retry_topic text)
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select d.topic, d.group_id, d.dead_letter_topic, d.partition, d."offset", d.origin_partition, d.origin_offset, d.failed_at,
           d.last_error, f.retry_topics[d.nth]
      from (select array_agg(r.partition_id) as partition_ids, array_agg(r."offset") as offsets, array_agg(r.retry_topic) as retry_topics
              from pgq._redrive(redrive_dead_letters.topic, redrive_dead_letters.group_id, redrive_dead_letters.error,
                                redrive_dead_letters.since, redrive_dead_letters.until, redrive_dead_letters.most,
                                redrive_dead_letters.execute) r) f
     cross join lateral pgq._describe_dead_letters(f.partition_ids, f.offsets) d
     order by d.nth
$$;
