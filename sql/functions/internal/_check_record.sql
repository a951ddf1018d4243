-- Refuse a record that cannot be stored.
--
-- limit_bytes   the topic's max.message.bytes
-- after_max_ms  its message.timestamp.after.max.ms, or null if the record's timestamp does not count
-- raises  PQ007 (MessageTooLargeError), PQ017 (InvalidTimestampError), PQ018 (InvalidRecordError)
create or replace function pgq._check_record(
    value bytea, key bytea, header_keys text[], header_values bytea[], "timestamp" timestamptz, limit_bytes bigint,
    after_max_ms bigint)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    bytes bigint;
begin
    if cardinality(header_keys) is distinct from cardinality(header_values)
       or array_ndims(header_keys) > 1 or array_ndims(header_values) > 1
       or array_position(header_keys, null) is not null then
        raise exception 'bad record headers'
            using errcode = 'PQ018',
                  hint = 'header_keys and header_values must be flat arrays of one length; a value may be null, a key may not.';
    end if;
    bytes := pgq._record_bytes(value, key, header_keys, header_values);
    if bytes > limit_bytes then
        raise exception 'record of % bytes is over max.message.bytes (%)', bytes, limit_bytes
            using errcode = 'PQ007',
                  hint = 'Send less (a reference instead of the thing), or raise max.message.bytes with pgq.alter_topic_config.';
    end if;
    if "timestamp" < 'epoch' or "timestamp" = 'infinity' then
        raise exception 'timestamp % is out of range', "timestamp"
            using errcode = 'PQ017', hint = 'Give a finite time from 1970-01-01 on.';
    end if;
    perform pgq._check_timestamp("timestamp", after_max_ms);
end
$$;
