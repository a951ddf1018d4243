-- Describe a topic: id, name, number of partitions, and its whole configuration, defaults included.
--
-- raises  PQ001 (UnknownTopicError)
create or replace function pgq.describe_topic(name text)
returns pgq.topic_description
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select t.topic_id, t.name, t.partitions,
           (select jsonb_object_agg(c.key, coalesce(t.config -> c.key, c.default_value)) from pgq.topic_config c)
      from pgq.topic t where t.topic_id = pgq._topic_id(describe_topic.name)
$$;
