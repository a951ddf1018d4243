-- Describe every topic that can be used, by name.
create or replace function pgq.list_topics()
returns setof pgq.topic_description
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select t.topic_id, t.name, t.partitions,
           (select jsonb_object_agg(c.key, coalesce(t.config -> c.key, c.default_value)) from pgq.topic_config c)
      from pgq.topic t where t.state = 'ready' order by t.name
$$;
