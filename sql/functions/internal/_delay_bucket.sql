-- Name of a table for records that are due in the same hour, made if there is none.
--
-- transaction  joins the caller's. A table that somebody else's open transaction has made is not waited for: there may be several
--              of one hour
-- locks   while it is made: BUCKET, exclusive, tag 29 (6 bits), 1 (1 bit), hour (49 bits), number (8 bits), until the end
create or replace function pgq._delay_bucket(due_at timestamptz)
returns text
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
set client_min_messages = warning
as $$
declare
    hour bigint := floor(extract(epoch from due_at) / 3600);
    number int := 0;
    bucket text;
    key bigint;
begin
    loop
        bucket := format('pgq_log.%s_%s', pgq._delay_name(due_at), number);
        if to_regclass(bucket) is not null then
            return bucket;
        end if;
        key := (29::bigint << 58) | (1::bigint << 57) | (hour << 8) | number;
        if number = 255 then
            perform pg_advisory_xact_lock(key);
        end if;
        if number = 255 or pg_try_advisory_xact_lock(key) then
            -- by now it may be there, and to_regclass may not have heard of it yet
            execute format('create table if not exists %s (like pgq_log.delayed including defaults, primary key (due_at, serial))', bucket);
            return bucket;
        end if;
        number := number + 1;
    end loop;
end
$$;
