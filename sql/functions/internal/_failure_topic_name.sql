-- Name of the retry or the dead letter topic of a group for a topic.
create or replace function pgq._failure_topic_name(topic text, group_id text, kind text)
returns text
language sql immutable
as $$ select pg_catalog.concat(topic, '.', group_id, case kind when 'retry' then '.retry' else '.dlq' end) $$;
