-- Name of a topic's view in schema pgq_topic: the topic's, as far as a name may be 63 bytes long.
create or replace function pgq._view_name(topic_id int, name text)
returns text
language sql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$ select case when octet_length(name) <= 63 then name else left(name, 61 - length(topic_id::text)) || '_t' || topic_id end $$;
