-- How many milliseconds lie between the timestamps of a segment's first and last record; null if it has none.
-- A look at both ends of its primary key.
--
-- source  Kafka compares each batch with the first record as it is appended; here that is done when somebody looks
create or replace function pgq._segment_span_ms(leaf text)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    result bigint;
begin
    execute format('select (extract(epoch from (select "timestamp" from %1$s order by "offset" desc limit 1)'
                   ' - (select "timestamp" from %1$s order by "offset" limit 1)) * 1000)::bigint', leaf) into result;
    return result;
end
$$;
