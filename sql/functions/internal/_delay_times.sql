-- DELAY locks that are held just now, by whomever; and the times that they name.
create or replace function pgq._delay_times()
returns table (key bigint, "at" timestamptz)
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select k.key, to_timestamp(((k.key >> 15) & 4398046511103) / 1000.0)
      from (select distinct (l.classid::bigint << 32) | l.objid::bigint as key from pg_locks l
             where l.locktype = 'advisory' and l.objsubid = 1 and l.classid::bigint >> 25 = 29 << 1
               and l.database = (select d.oid from pg_database d where d.datname = current_database())) k
$$;
