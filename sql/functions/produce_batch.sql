-- Append many records to a topic.
--
-- topic        its name
-- "values"     the records' values
-- keys, partitions, timestamps, headers  parallel to it where given; an element, or the whole array, may be null, with
--              the meaning it has for pgq.produce. headers: an object of strings for each record
-- returns partition and "offset" of each record, in the order given
-- transaction, locks and what it raises: as pgq.produce, and PQ023 (InvalidRequestError) for records to more than 100
--              partitions; nothing is appended if one record is refused
create or replace function pgq.produce_batch(
    topic text, "values" bytea[], keys bytea[] default null, partitions int[] default null,
    timestamps timestamptz[] default null, headers jsonb[] default null)
returns setof pgq.record_metadata
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    topic pgq.topic_description := pgq.describe_topic(produce_batch.topic);
    n int := coalesce(cardinality("values"), 0);
begin
    if exists (select from unnest(array[cardinality(keys), cardinality(partitions), cardinality(timestamps), cardinality(headers)]) c where c <> n)
       or 1 <> any (array[array_ndims("values"), array_ndims(keys), array_ndims(partitions), array_ndims(timestamps), array_ndims(headers)]) then
        raise exception 'produce_batch: arrays of different shapes'
            using errcode = 'PQ018', hint = 'Give flat arrays, keys, partitions, timestamps and headers as long as "values", or null.';
    end if;
    if n = 0 then
        return;
    end if;
    return query
        select a.*
          from (select array_agg(h.i) as records, array_agg(h.key) as header_keys, array_agg(convert_to(h.value, 'UTF8')) as header_values
                  from (select r.i::int, h.key, h.value
                          from unnest(headers) with ordinality r (headers, i), jsonb_each_text(pgq._headers_object(r.headers)) h) h) h,
               pgq._append_records(
                   array_fill(topic.name, array[n]),
                   -- records without a key are spread
                   array(select coalesce(r.partition, case when r.key is null then floor(random() * topic.partitions)::int end)
                           from unnest("values", keys, partitions) with ordinality r (value, key, partition, i) order by r.i),
                   null, timestamps, keys, "values", h.records, h.header_keys, h.header_values) a;
end
$$;
