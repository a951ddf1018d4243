-- Key of the DELAY lock: tag 29 (6 bits), 0 (1 bit), time (42 bits, ms since 1970), backend (15 bits).
-- It says: this transaction may still show records that are due from then on. Rounded down: a record that is due at once is due in
-- that millisecond.
create or replace function pgq._delay_key("at" timestamptz)
returns bigint
language sql immutable
as $$
    select (29::bigint << 58) | (floor(extract(epoch from "at") * 1000)::bigint << 15) | (pg_backend_pid() & 32767)
$$;
