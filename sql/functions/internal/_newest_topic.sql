-- The highest topic_id that was given out to a topic that is there: what is made later has a higher one.
create or replace function pgq._newest_topic()
returns int
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce(max(t.topic_id), 0) from pgq.topic t
$$;
