-- Keys of a tag (6 bits) whose advisory locks this session holds, exclusive and for itself.
create or replace function pgq._held_keys(tag int)
returns bigint[]
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce(array_agg((l.classid::bigint << 32) | l.objid::bigint), '{}') from pg_locks l
     where l.locktype = 'advisory' and l.objsubid = 1 and l.pid = pg_backend_pid() and l.mode = 'ExclusiveLock' and l.granted
       and l.classid::bigint >> 26 = tag
$$;
