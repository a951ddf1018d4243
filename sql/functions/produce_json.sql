-- Append one record whose value is JSON, key and headers text, stored as UTF-8.
--
-- headers  an object of strings (or null values), in no promised order; anything else by its JSON text
-- The rest, and what it raises, as pgq.produce.
create or replace function pgq.produce_json(
    topic text, value jsonb, key text default null, headers jsonb default null,
    inout partition int default null, "timestamp" timestamptz default null, out "offset" bigint)
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select p.partition, p."offset"
      from (select array_agg(h.key) as keys, array_agg(convert_to(h.value, 'UTF8')) as values
              from jsonb_each_text(pgq._headers_object(produce_json.headers)) h) headers,
           pgq.produce(topic => produce_json.topic,
                       value => convert_to(produce_json.value::text, 'UTF8'),
                       key => convert_to(produce_json.key, 'UTF8'),
                       header_keys => headers.keys,
                       header_values => headers.values,
                       partition => produce_json.partition,
                       "timestamp" => produce_json."timestamp") p
$$;
