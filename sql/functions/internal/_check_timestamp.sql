-- Refuse a timestamp that lies further ahead than a topic allows: it would keep its segment, and all after it, from
-- being deleted in time.
--
-- after_max_ms  the topic's message.timestamp.after.max.ms, or null if the record's timestamp does not count
-- raises  PQ017 (InvalidTimestampError)
create or replace function pgq._check_timestamp("timestamp" timestamptz, after_max_ms bigint)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if extract(epoch from "timestamp" - clock_timestamp()) * 1000 > after_max_ms then
        raise exception 'timestamp % is more than message.timestamp.after.max.ms (%) ahead of the server''s clock', "timestamp", after_max_ms
            using errcode = 'PQ017',
                  hint = 'Milliseconds are meant, not microseconds; else set the clock, or the topic''s configuration.';
    end if;
end
$$;
