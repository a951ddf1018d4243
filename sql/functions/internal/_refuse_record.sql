-- Say why a record is refused.
--
-- raises  PQ007 (MessageTooLargeError), PQ017 (InvalidTimestampError); always one of them
create or replace function pgq._refuse_record(bytes bigint, limit_bytes bigint, "timestamp" timestamptz)
returns void
language plpgsql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if bytes > limit_bytes then
        raise exception 'record of % bytes is over max.message.bytes (%)', bytes, limit_bytes
            using errcode = 'PQ007',
                  hint = 'Send less (a reference instead of the thing), or raise max.message.bytes with pgq.alter_topic_config.';
    end if;
    raise exception 'timestamp % is out of range', "timestamp"
        using errcode = 'PQ017', hint = 'Give a finite time from 1970-01-01 on.';
end
$$;
