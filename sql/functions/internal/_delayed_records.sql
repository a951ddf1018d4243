-- All records of the delay table.
--
-- locks   ACCESS SHARE on each of its tables, of which there is one an hour in which a record is due
create or replace function pgq._delayed_records()
returns setof pgq_log.delayed
language plpgsql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    bucket text;
begin
    for bucket in select b.bucket from pgq._delay_buckets() b loop
        begin
            return query execute format('select * from %s', bucket);
        exception when undefined_table or internal_error then
            null;  -- dropped meanwhile: it was empty
        end;
    end loop;
end
$$;
