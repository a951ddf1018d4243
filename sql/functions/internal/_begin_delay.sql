-- Begin to put records into the delay table; the caller then inserts them, none of them due before what this returns.
--
-- returns the server's clock, in whole milliseconds
-- transaction  joins the caller's, which must insert at the same savepoint level or below it
-- locks   DELAY, shared, of the clock, before it is read: once a transaction, until its end
create or replace function pgq._begin_delay()
returns timestamptz
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if coalesce(current_setting('pgq.delay', true), '') = '' then
        perform pg_advisory_xact_lock_shared(pgq._delay_key(clock_timestamp()));
        perform set_config('pgq.delay', 'begun', true);
    end if;
    return date_trunc('milliseconds', clock_timestamp());
end
$$;
