-- Send a record that is appended to its topic later.
--
-- topic, value, key, header_keys, header_values  as pgq.produce
-- deliver_at     when: it can be read within a second of it, but never before. The past: now. Ten years ahead at most
-- partition      null: by the key's murmur2 hash, or any partition when there is no key. Chosen now
-- "timestamp"    of the record; null: when it is appended
-- returns its delayed id, for pgq.cancel_delayed
-- transaction    joins the caller's, in every isolation level
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ007 (MessageTooLargeError),
--         PQ017 (InvalidTimestampError), PQ018 (InvalidRecordError)
-- locks   DELAY, shared, once a transaction, until its end
create or replace function pgq.produce_delayed(
    topic text, value bytea, deliver_at timestamptz, key bytea default null, header_keys text[] default null,
    header_values bytea[] default null, partition int default null, "timestamp" timestamptz default null)
returns text
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if cardinality(header_keys) is distinct from cardinality(header_values) then
        perform pgq._check_record(value, key, header_keys, header_values, null, 9223372036854775807, null);
    end if;
    return (select d.delayed_id
              from pgq._delay_records(array[topic], array[partition], null, array["timestamp"], array[key], array[value],
                                      array_fill(1, array[coalesce(cardinality(header_keys), 0)]), header_keys, header_values, array[deliver_at]) d);
end
$$;
