-- Who holds locks on tables for longest, three at most, in words; null: nobody. Without autovacuum, which gives way.
create or replace function pgq._lock_holders(tables oid[])
returns text
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select string_agg(case when h.pid is null then coalesce(format('the prepared transaction %L', h.gid), 'a prepared transaction')
                           else format('session %s (%s)', h.pid, coalesce(nullif(h.application_name, ''), 'no name')) end,
                      ', ' order by h.began, h.pid)
      from (select l.pid, a.application_name, x.gid, coalesce(a.xact_start, x.prepared) as began
              from (select distinct l.pid, l.virtualtransaction from pg_locks l
                     where l.locktype = 'relation' and l.relation = any (_lock_holders.tables) and l.granted
                       and l.database = (select d.oid from pg_database d where d.datname = current_database())
                       and l.pid is distinct from pg_backend_pid() and l.mode <> 'ShareUpdateExclusiveLock') l
              left join pg_stat_activity a on a.pid = l.pid
              left join pg_prepared_xacts x on l.pid is null and l.virtualtransaction = '-1/' || x.transaction::text
             order by began, l.pid limit 3) h
$$;
