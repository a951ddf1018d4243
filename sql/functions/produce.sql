-- Append one record to a topic.
--
-- topic          its name
-- value, key     bytes, or null
-- header_keys, header_values  flat arrays of one length, or null; a value may be null
-- partition      null: by the key's murmur2 hash, or any partition when there is no key
-- "timestamp"    null: now; kept to the millisecond
-- returns partition and "offset" of the record
-- transaction    joins the caller's: readers of the partition see nothing beyond this record before it ends. Works in
--                every isolation level
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ007 (MessageTooLargeError),
--         PQ017 (InvalidTimestampError), PQ018 (InvalidRecordError)
-- locks   APPEND and PARK, shared: once a transaction and partition, until its end
--
-- With a transaction a record every expression counts, hence the short call, and names in full instead of a search_path.
create or replace function pgq.produce(
    topic text, value bytea, key bytea default null, header_keys text[] default null, header_values bytea[] default null,
    inout partition int default null, "timestamp" timestamptz default null, out "offset" bigint)
language plpgsql
as $$
#variable_conflict use_variable
begin
    if partition is null and "timestamp" is null and header_keys is null and header_values is null then
        execute pg_catalog.concat('call ', coalesce(pg_catalog.to_regproc(pgq._produce_procedure(topic))::pg_catalog.text,
                                                    pgq._produce_target(topic)), '($1,$2)')
            into partition, "offset" using value, key;
    else
        execute pg_catalog.concat('call ', coalesce(pg_catalog.to_regproc(pgq._produce_procedure(topic))::pg_catalog.text,
                                                    pgq._produce_target(topic)), '($1,$2,$3,$4,$5,$6)')
            into partition, "offset" using value, key, partition, "timestamp", header_keys, header_values;
    end if;
end
$$;
