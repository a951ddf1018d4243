-- The value of a configuration key for a topic: its own, or the default.
create or replace function pgq._config_value(topic_id int, key text)
returns text
language sql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce(t.config -> c.key, c.default_value) #>> '{}'
      from pgq.topic t, pgq.topic_config c
     where t.topic_id = _config_value.topic_id and c.key = _config_value.key
$$;
