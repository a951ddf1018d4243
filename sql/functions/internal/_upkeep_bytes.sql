-- How many bytes a producer appends to a partition of a topic before it calls pgq.upkeep: a quarter of a segment, so that one
-- does not grow far beyond segment.bytes; 16 MiB at most.
create or replace function pgq._upkeep_bytes(topic_id int)
returns bigint
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$ select least(16777216, pgq._segment_bytes(topic_id) / 4) $$;
