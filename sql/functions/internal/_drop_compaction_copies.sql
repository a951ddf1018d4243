-- Drop the copies of segments that compactions of a partition have left.
--
-- lock_timeout_ms  how long to wait for those who look at them (VACUUM); null: for ever
-- returns whether they are gone; false: somebody holds one
-- locks   ACCESS EXCLUSIVE on them
create or replace function pgq._drop_compaction_copies(partition_id int, lock_timeout_ms int default 200)
returns boolean
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = 0
as $$
declare
    copy text;
begin
    if lock_timeout_ms is not null then
        perform set_config('lock_timeout', lock_timeout_ms || 'ms', true);
    end if;
    for copy in select c.name from pgq._compaction_copies(_drop_compaction_copies.partition_id) c loop
        execute format('drop table if exists %s', copy);
    end loop;
    return true;
exception when lock_not_available then
    return false;
end
$$;
