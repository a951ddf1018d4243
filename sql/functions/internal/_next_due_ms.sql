-- How long until pgq.deliver_due is to be called, in milliseconds: 0 or less if something is due; null if nothing waits.
create or replace function pgq._next_due_ms()
returns bigint
language plpgsql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    last pgq.delivery;
    first_due timestamptz;
begin
    if not exists (select from pgq._delay_buckets()) then
        return null;
    end if;
    select d.* into last from pgq.delivery d order by d.delivery_id desc limit 1;
    select f.due_at into first_due from pgq._first_delayed(last.search_from, last.search_serial) f;
    return least(case when cardinality(last.open) > 0 then 500 end,
                 ceil(extract(epoch from first_due - clock_timestamp()) * 1000)::bigint);
end
$$;
