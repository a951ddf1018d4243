-- List dead letters, records that groups could not process: those that were neither redriven nor purged, the oldest failure first.
--
-- topic     only of this origin: the topic that they were first read from
-- group_id  only of this group
-- error     only those whose first or last error contains this text; upper and lower case are the same
-- since, until  only those that failed last at since or later, and before until
-- most      how many at most
-- returns topic: the origin; group_id; dead_letter_topic, partition, "offset": where it is; origin_partition, origin_offset: where it
--         was first; failed_at: when it failed last; attempts: how often since it was last sent back; redriven: how often it was;
--         first_error, last_error; the record as it stands in the log. What its headers do not tell, since somebody has
--         appended it by hand, is null, and failed_at its timestamp
-- transaction  joins the caller's; READ COMMITTED only. What open transactions have appended before it, and since, is left out
-- raises  PQ001 (UnknownTopicError), PQ009 (IsolationLevelError), PQ010 (NotLeaderError), PQ023 (InvalidRequestError),
--         PQ040 (GroupIdNotFoundError)
create or replace function pgq.dead_letters(
    topic text default null, group_id text default null, error text default null, since timestamptz default null,
    until timestamptz default null, most int default 100)
returns table (topic text, group_id text, dead_letter_topic text, partition int, "offset" bigint, origin_partition int,
               origin_offset bigint, failed_at timestamptz, attempts int, redriven int, first_error text, last_error text, key bytea,
               value bytea, codec smallint, header_keys text[], header_values bytea[])
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select d.topic, d.group_id, d.dead_letter_topic, d.partition, d."offset", d.origin_partition, d.origin_offset, d.failed_at,
           d.attempts, d.redriven, d.first_error, d.last_error, d.key, d.value, d.codec, d.header_keys, d.header_values
      from (select array_agg(f.partition_id) as partition_ids, array_agg(f."offset") as offsets
              from pgq._find_dead_letters(dead_letters.topic, dead_letters.group_id, dead_letters.error, dead_letters.since,
                                          dead_letters.until, dead_letters.most) f) f
     cross join lateral pgq._describe_dead_letters(f.partition_ids, f.offsets) d
     order by d.nth
$$;
