-- Drop up to 25 tables of delayed records of past hours. They are empty; if one is not, since the server's clock was set back, the
-- search for due records begins there next time.
--
-- before  no transaction is open that may still put a record that is due earlier into one
-- locks   ACCESS EXCLUSIVE on each, without waiting: one that somebody uses stays until the next time
create or replace function pgq._drop_delay_buckets(before timestamptz)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    old record;
    first_due timestamptz;
    dropped int := 0;
begin
    for old in select * from pgq._delay_buckets() b where b.hour_ends_at <= before loop
        begin
            execute format('lock table %s in access exclusive mode nowait', old.bucket);
            execute format('select min(due_at) from %s', old.bucket) into first_due;
            if first_due is null then
                execute format('drop table %s', old.bucket);
                dropped := dropped + 1;
                exit when dropped = 25;
            else
                update pgq.delivery d set search_from = first_due, search_serial = 0 where d.search_from >= first_due;
            end if;
        exception when lock_not_available or undefined_table then
            null;
        end;
    end loop;
end
$$;
