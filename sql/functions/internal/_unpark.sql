-- End pgq._park: appends to these topics notify no more.
--
-- held      what pgq._park returned
-- notified  whether the session was notified since: then everybody else was, too. If not, others may rely on this
--           session's lock, and are woken so that one of them takes it
-- transaction  the notification comes with the caller's commit
create or replace function pgq._unpark(held int[], notified boolean)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int;
begin
    foreach id in array held loop
        perform pg_advisory_unlock(pgq._park_key(id));
        if not notified then
            perform pgq._wake(id);
        end if;
    end loop;
end
$$;
