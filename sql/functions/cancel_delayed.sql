-- Take back a record that waits for its time.
--
-- delayed_id  what pgq.produce_delayed returned
-- returns whether it was still waiting; false: it has been delivered, or cancelled before
-- transaction  joins the caller's: until that ends the record is not delivered, and if it is rolled back the record stays. In REPEATABLE
--              READ it finds what was sent before the transaction's snapshot; 40001 for what was delivered since
-- locks   the record's row; waits for a delivery of it that is on its way
-- raises  PQ044 (InvalidDelayedIdError)
create or replace function pgq.cancel_delayed(delayed_id text)
returns boolean
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    parts text[] := regexp_match(delayed_id, '^(\d{1,15})-(\d{1,18})$');
    due_at timestamptz;
    bucket text;
    found_rows int;
begin
    if parts is null then
        raise exception 'no delayed id: %', coalesce(quote_literal(left(delayed_id, 100)), 'NULL')
            using errcode = 'PQ044', hint = 'Give what pgq.produce_delayed returned, such as ''1795694400000-42''.';
    end if;
    due_at := 'epoch'::timestamptz + parts[1]::bigint * interval '1 millisecond';
    for bucket in select b.bucket from pgq._delay_buckets(due_at, due_at) b loop
        begin
            execute format('delete from %s where due_at = $1 and serial = $2', bucket) using due_at, parts[2]::bigint;
            get diagnostics found_rows = row_count;
            if found_rows > 0 then
                return true;
            end if;
        exception when undefined_table or internal_error then
            null;  -- dropped meanwhile: it was empty
        end;
    end loop;
    return false;
end
$$;
