-- Name of a segment's table.
create or replace function pgq._segment_name(topic_id int, partition int, base_offset bigint)
returns text
language sql immutable
as $$ select pg_catalog.format('pgq_log.t%s_p%s_s%s', topic_id, partition, base_offset) $$;
