-- All records of the delay table.
--
-- locks   ACCESS SHARE on the first 100 of its tables, of which there is one an hour in which a record is due; the locks on the others are
--         given back, so that many hours do not use up the table of locks
create or replace function pgq._delayed_records()
returns setof pgq_log.delayed
language plpgsql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    bucket record;
begin
    for bucket in select b.bucket as name, row_number() over () as nth from pgq._delay_buckets() b loop
        begin
            return query execute format('select * from %s', bucket.name);
            if bucket.nth > 100 then
                raise exception 'taken back' using errcode = 'triggered_action_exception';
            end if;
        exception when triggered_action_exception or undefined_table or internal_error then
            null;  -- or dropped meanwhile: it was empty
        end;
    end loop;
end
$$;
