-- The segments below the log start, up to 20 a partition and 1,000 in all: nobody is to read them any more. Oldest first in each partition, but before all
-- a pending one: while there is one, no other can be detached.
--
-- returns partition_id, base_offset
--         tree, leaf  names of the partition's table and of the segment's
--         state    'attached': ALTER TABLE ... DETACH PARTITION ... CONCURRENTLY is next; 'pending': that was interrupted, and
--                  pgq._drop_segment is to end it; 'detached': pgq._drop_segment, too
--         holders  transactions that hold a lock on either table just now. One that is there a second time holds it for
--                  long: who detaches waits for it, and who drops is waited for by others meanwhile
create or replace function pgq._droppable()
returns table (partition_id int, base_offset bigint, tree text, leaf text, state text, holders text[])
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    with droppable as materialized (
        select p.partition_id, s.base_offset, format('pgq_log.t%s_p%s', p.topic_id, p.partition) as tree,
               pgq._segment_name(p.topic_id, p.partition, s.base_offset) as leaf
          from pgq.partition p
          join pgq.topic t on t.topic_id = p.topic_id and t.state = 'ready'
         cross join lateral (select s.base_offset from pgq.segment s
                              where s.partition_id = p.partition_id and s.base_offset < p.log_start_offset
                                and s.end_offset <= p.log_start_offset
                              order by s.base_offset limit 20) s
         order by p.partition_id, s.base_offset limit 1000
    ), holder as materialized (
        select l.relation, l.virtualtransaction from pg_locks l
         where l.locktype = 'relation' and l.pid is distinct from pg_backend_pid()
           and l.mode <> 'ShareUpdateExclusiveLock'  -- autovacuum gives way to pgq._clear_segment; makers of segments are soon done
           and l.database = (select d.oid from pg_database d where d.datname = current_database())
    )
    select d.partition_id, d.base_offset, d.tree, d.leaf,
           case when i.inhrelid is null then 'detached' when i.inhdetachpending then 'pending' else 'attached' end,
           coalesce((select array_agg(distinct h.virtualtransaction) from holder h
                      where h.relation in (to_regclass(d.tree), to_regclass(d.leaf))), '{}')
      from droppable d
      left join pg_inherits i on i.inhrelid = to_regclass(d.leaf)
     order by d.partition_id, coalesce(i.inhdetachpending, false) desc, d.base_offset
$$;
