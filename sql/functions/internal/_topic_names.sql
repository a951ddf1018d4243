-- Topics that a pattern may match: those that can be used, but for retry and dead letter topics.
create or replace function pgq._topic_names()
returns setof text
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select t.name from pgq.topic t
     where t.state = 'ready' and not exists (select from pgq.failure_topic f where f.topic_id = t.topic_id) order by t.name
$$;
