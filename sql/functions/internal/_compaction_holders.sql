-- The transactions that hold a lock just now on what a swap of segments needs for itself. One that is there a second
-- time, a moment later, holds it for long, and it is no use to begin.
create or replace function pgq._compaction_holders(partition_id int, bases bigint[])
returns text[]
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce(array_agg(distinct l.virtualtransaction), '{}')
      from pgq.partition p
      join pg_locks l on l.relation = to_regclass(format('pgq_log.t%s_p%s', p.topic_id, p.partition))
                      or l.relation in (select to_regclass(pgq._segment_name(p.topic_id, p.partition, b))
                                          from unnest(bases) b)
     where p.partition_id = _compaction_holders.partition_id
       and l.locktype = 'relation' and l.granted and l.pid is distinct from pg_backend_pid()
       and l.database = (select d.oid from pg_database d where d.datname = current_database())
$$;
