-- Notify the members of a group, on the channel pgq_group_<id>, when the caller's transaction commits.
create or replace function pgq._wake_group(consumer_group_id int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    perform pg_notify(concat('pgq_group_', consumer_group_id), '');
end
$$;
