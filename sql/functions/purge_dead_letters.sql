-- Give dead letters up: they are listed no more, and deleted as soon as nothing before them is kept.
--
-- topic, group_id, error, since, until  which, as pgq.dead_letters has it
-- most     how many at most; call again for more
-- execute  whether to do it; nothing is changed otherwise
-- returns those that are given up, or that the next call with execute would give up, oldest failure first: where they are and were
--         first, as pgq.dead_letters has it
-- transaction  joins the caller's; READ COMMITTED only. Log starts of dead letter topics move up to the first record that is neither
--         purged nor redriven, as pgq.delete_records moves them
-- locks   DEAD LETTER of the dead letter topics that they are in, and the rows of their partitions
-- raises  PQ001 (UnknownTopicError), PQ009 (IsolationLevelError), PQ010 (NotLeaderError), PQ023 (InvalidRequestError),
--         PQ040 (GroupIdNotFoundError)
create or replace function pgq.purge_dead_letters(
    topic text default null, group_id text default null, error text default null, since timestamptz default null,
    until timestamptz default null, most int default 100, execute boolean default false)
returns table (topic text, group_id text, dead_letter_topic text, partition int, "offset" bigint, origin_partition int,
               origin_offset bigint, failed_at timestamptz, last_error text)
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select d.topic, d.group_id, d.dead_letter_topic, d.partition, d."offset", d.origin_partition, d.origin_offset, d.failed_at,
           d.last_error
      from (select array_agg(p.partition_id) as partition_ids, array_agg(p."offset") as offsets
              from pgq._purge(purge_dead_letters.topic, purge_dead_letters.group_id, purge_dead_letters.error,
                              purge_dead_letters.since, purge_dead_letters.until, purge_dead_letters.most,
                              purge_dead_letters.execute) p) f
     cross join lateral pgq._describe_dead_letters(f.partition_ids, f.offsets) d
     order by d.nth
$$;
