-- The first record that waits, of those that are not before a place in the order of delivery; nulls if there is none.
create or replace function pgq._first_delayed(search_from timestamptz, search_serial bigint, out due_at timestamptz, out serial bigint)
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    bucket record;
    hour_ends_at timestamptz;
    found_one record;
begin
    for bucket in select * from pgq._delay_buckets(search_from) loop
        -- there may be several tables of one hour
        exit when due_at is not null and bucket.hour_ends_at > hour_ends_at;
        begin
            execute format('select d.due_at, d.serial from %s d where (d.due_at, d.serial) >= ($1, $2) order by d.due_at, d.serial limit 1',
                           bucket.bucket) into found_one using search_from, search_serial;
            if found_one.due_at is not null and (due_at is null or (found_one.due_at, found_one.serial) < (due_at, serial)) then
                due_at := found_one.due_at;
                serial := found_one.serial;
                hour_ends_at := bucket.hour_ends_at;
            end if;
        exception when undefined_table or internal_error then
            null;  -- dropped meanwhile: it was empty
        end;
    end loop;
end
$$;
