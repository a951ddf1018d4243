-- Notify those who are parked at a topic, when the caller's transaction commits. What an append does that finds the PARK lock
-- held; without that it costs all appends of the database a common lock.
--
-- returns true always, to be part of a condition
-- transaction  joins the caller's. Does nothing where the setting pgq.notify is off, as two-phase commit needs: PREPARE
--              TRANSACTION is refused after a NOTIFY
create or replace function pgq._wake(topic_id int)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if current_setting('pgq.notify', true) is distinct from 'off' then
        perform pg_notify(concat('pgq_', topic_id), '');
    end if;
    return true;
end
$$;
