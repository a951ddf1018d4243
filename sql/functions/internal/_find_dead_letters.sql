-- The dead letters that fit, oldest first: where they are, and when they failed. What pgq.dead_letters and those that settle dead
-- letters begin with, so that all mean the same ones.
--
-- parameters  as pgq.dead_letters
-- transaction  READ COMMITTED only: what is settled and what is decided are looked up anew
-- raises  PQ001 (UnknownTopicError): neither a topic nor one whose dead letters are kept; PQ009 (IsolationLevelError),
--         PQ010 (NotLeaderError), PQ023 (InvalidRequestError), PQ040 (GroupIdNotFoundError)
create or replace function pgq._find_dead_letters(topic text, group_id text, error text, since timestamptz, until timestamptz, most int)
returns table (topic_id int, partition_id int, "offset" bigint, failed_at timestamptz)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    perform pgq._check_fetch(null);
    if most is null or most < 1 then
        raise exception 'cannot take % dead letters', coalesce(most::text, 'NULL')
            using errcode = 'PQ023', hint = 'most must be at least 1.';
    end if;
    if topic is not null and not exists (select from pgq.failure_topic f where f.origin = topic) then
        perform pgq._topic_id(topic);
    end if;
    if group_id is not null and not exists (select from pgq.failure_topic f where f.group_id = _find_dead_letters.group_id)
       and not exists (select from pgq.consumer_group g where g.name = group_id) then
        raise exception 'unknown group %', quote_literal(group_id)
            using errcode = 'PQ040', hint = 'pgq.group_status lists the groups that there are.';
    end if;
    return query
        select p.topic_id, p.partition_id, d."offset", d.failed_at
          from (select p.topic_id, p.partition_id
                  from pgq.failure_topic f join pgq.topic t using (topic_id) join pgq.partition p using (topic_id)
                 where f.kind = 'dead letter' and t.state = 'ready'
                   and f.origin = coalesce(_find_dead_letters.topic, f.origin)
                   and f.group_id = coalesce(_find_dead_letters.group_id, f.group_id)
                 order by p.partition_id) p
         cross join lateral pgq._unsettled_dead_letters(p.partition_id, error, since, until, most) d
         order by d.failed_at, p.partition_id, d."offset"
         limit most;
end
$$;
