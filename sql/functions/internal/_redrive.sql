-- Send dead letters back to the retry topics of their groups, where they are due at once, and mark them so; without execute say
-- which. What pgq.redrive_dead_letters does, which tells more of them.
--
-- parameters  as pgq.redrive_dead_letters
-- returns the dead letters, oldest failure first, and the names of the topics that they go to. To 100 partitions at most, as
--         pgq.begin_append has it: what would go to more is left for the next call
-- transaction, locks, raises  as pgq.redrive_dead_letters
create or replace function pgq._redrive(
    topic text, group_id text, error text, since timestamptz, until timestamptz, most int, execute boolean)
returns table (partition_id int, "offset" bigint, retry_topic text)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    lost record;
    plan record;
    replicas int;
    taken bigint[];
    placed bigint[];
    retry_id int;
begin
    -- records of a key go to one partition, the others to each in turn, so that a look at it says what will happen
    select array_agg(n.partition_id order by n.nth) as partition_ids, array_agg(n."offset" order by n.nth) as offsets,
           array_agg(d.origin order by n.nth) as origins, array_agg(d.group_id order by n.nth) as groups,
           array_agg(t.topic_id order by n.nth) as retry_ids, array_agg(t.name order by n.nth) as retry_topics,
           array_agg(case when r.key is null then (n."offset" % t.partitions)::int
                          else pgq.partition_for_key(r.key, t.partitions) end order by n.nth) as chosen
      into plan
      from (select array_agg(f.partition_id) as partition_ids, array_agg(f."offset") as offsets
              from pgq._take_dead_letters(_redrive.topic, _redrive.group_id, _redrive.error, _redrive.since, _redrive.until,
                                          _redrive.most, _redrive.execute) f) f
     cross join lateral pgq._dead_letter_rows(f.partition_ids, f.offsets) r
      join lateral unnest(f.partition_ids, f.offsets) with ordinality n (partition_id, "offset", nth)
        on n.partition_id = r.partition_id and n."offset" = r."offset"
      join pgq.partition p on p.partition_id = n.partition_id
      join pgq.failure_topic d on d.topic_id = p.topic_id
      left join (pgq.failure_topic o join pgq.topic t on t.topic_id = o.topic_id and t.state = 'ready')
        on o.origin = d.origin and o.group_id = d.group_id and o.kind = 'retry';
    if plan.offsets is null then
        return;
    end if;
    select u.origin, u.group_id into lost from unnest(plan.origins, plan.groups, plan.retry_ids) u (origin, group_id, retry_id)
     where u.retry_id is null limit 1;
    if found then
        raise exception 'group % has no retry topic for topic % any more', quote_literal(lost.group_id), quote_literal(lost.origin)
            using errcode = 'PQ001',
                  hint = 'Make it with pgq.create_retry_topics, as consumers that try again do, or purge these dead letters.';
    end if;
    select array_agg(u.partition_id order by u.nth) as partition_ids, array_agg(u."offset" order by u.nth) as offsets,
           array_agg(u.retry_id order by u.nth) as retry_ids, array_agg(u.retry_topic order by u.nth) as retry_topics,
           array_agg(u.chosen order by u.nth) as chosen
      into plan
      from unnest(plan.partition_ids, plan.offsets, plan.retry_ids, plan.retry_topics, plan.chosen)
           with ordinality u (partition_id, "offset", retry_id, retry_topic, chosen, nth)
     where u.nth < coalesce((select min(c.nth) from unnest(plan.retry_ids, plan.chosen) with ordinality c (retry_id, chosen, nth)
                              group by c.retry_id, c.chosen order by 1 offset 100 limit 1), 9223372036854775807);
    if execute then
        select max(pgq._config_value(t, 'min.insync.replicas')::int) into replicas from (select distinct unnest(plan.retry_ids) t) t;
        if replicas > 1 and current_setting('synchronous_commit') not in ('off', 'local') then
            perform pgq._check_replicas(replicas);
        end if;
        -- as pgq._append_records: offsets first, in a statement of their own; both sides in the same order
        select array_agg(o."offset" order by a.topic_id, a.partition, o.nth) into taken
          from (select array_agg(c.topic_id) as topics, array_agg(c.partition) as partitions, array_agg(c.n) as counts
                  from (select c.topic_id, c.partition, count(*)::int as n
                          from unnest(plan.retry_ids, plan.chosen) c (topic_id, partition) group by c.topic_id, c.partition) c) w,
               pgq.begin_append(w.topics, w.partitions, w.counts) a,
               unnest(a.offsets) with ordinality o ("offset", nth);
        select array_agg(u."offset" order by u.nth) into placed
          from unnest(array(select c.nth from unnest(plan.retry_ids, plan.chosen) with ordinality c (topic_id, partition, nth)
                             order by c.topic_id, c.partition, c.nth), taken) u (nth, "offset");
        for retry_id in select distinct t from unnest(plan.retry_ids) t order by t loop
            execute format($insert$
                insert into pgq_log.t%s (partition, "offset", "timestamp", key, value, header_keys, header_values, codec)
                select u.chosen, u.placed, date_trunc('milliseconds', clock_timestamp()), r.key, r.value, h.keys, h.values, r.codec
                  from (select array_agg(u.partition_id) as partition_ids, array_agg(u."offset") as offsets
                          from unnest($2, $3, $4) u (partition_id, "offset", retry_id) where u.retry_id = $1) f
                 cross join lateral pgq._dead_letter_rows(f.partition_ids, f.offsets) r
                  join unnest($2, $3, $5, $6) u (partition_id, "offset", chosen, placed)
                    on u.partition_id = r.partition_id and u."offset" = r."offset"
                 cross join lateral pgq._redriven_headers(r.header_keys, r.header_values) h
                 order by u.chosen, u.placed
                $insert$, retry_id)
                using retry_id, plan.partition_ids, plan.offsets, plan.retry_ids, plan.chosen, placed;
        end loop;
        perform pgq._settle_dead_letters(plan.partition_ids, plan.offsets, 'redriven');
    end if;
    return query
        select u.partition_id, u."offset", u.retry_topic
          from unnest(plan.partition_ids, plan.offsets, plan.retry_topics) with ordinality u (partition_id, "offset", retry_topic, nth)
         order by u.nth;
end
$$;
