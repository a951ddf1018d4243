-- What moves in every partition of topics that can be used: next offset, high watermark, open producers. All of the lock table is read once.
--
-- returns a row a partition; the oldest open producer by the start of its transaction, which takes pg_read_all_stats (of
--         the owner of schema pgq) to see of other roles: without, producer_since is null and any of them is named.
--         producer_prepared: the gid, if it is a prepared transaction, which has no pid. On a standby, where the
--         primary's locks are not known, high_watermark is null
create or replace function pgq._partition_progress()
returns table (partition_id int, next_offset bigint, high_watermark bigint, producers bigint, producer_pid int,
               producer_application text, producer_since timestamptz, producer_prepared text)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    ids int[];
    next_offsets bigint[];
    chunk record;
    here bigint[];
begin
    -- first the sequences, then the locks: see pgq._high_watermark. Not by pgq._next_offset, whose locks would stay until the
    -- transaction ends, as many as there are partitions. A topic that is deleted meanwhile is met once more at most
    for attempt in 1 .. 5 loop
        begin
            ids := '{}';
            next_offsets := '{}';
            for chunk in
                select array_agg(p.partition_id order by p.partition_id) as ids,
                       string_agg(format('(select case when is_called then last_value + 1 else 0 end from %I.%I)', n.nspname, c.relname),
                                  ', ' order by p.partition_id) as looks
                  from (select p.partition_id, p.sequence, (row_number() over (order by p.partition_id) - 1) / 50 as nth
                          from pgq.partition p join pgq.topic t using (topic_id) where t.state = 'ready') p
                  join pg_class c on c.oid = p.sequence
                  join pg_namespace n on n.oid = c.relnamespace
                 group by p.nth order by p.nth
            loop
                begin
                    execute format('select array[%s]', chunk.looks) into here;
                    raise exception 'taken back' using errcode = 'triggered_action_exception';
                exception when triggered_action_exception then
                    null;  -- the variable stays, the locks do not
                end;
                ids := ids || chunk.ids;
                next_offsets := next_offsets || here;
            end loop;
            exit;
        exception
            when undefined_table or internal_error or deadlock_detected then
                if attempt = 5 then
                    raise;
                end if;
        end;
    end loop;
    return query
        with lock as materialized (
            select l.* from pg_locks l
             where l.locktype = 'transactionid' and l.pid is null
                or l.locktype = 'advisory' and l.objsubid = 1 and l.classid::bigint >> 26 = 23
                   and l.database = (select d.oid from pg_database d where d.datname = current_database())
        ), held as (
            select ((l.classid::bigint >> 8) & 262143)::int as partition_id,
                   ((l.classid::bigint & 255) << 32) | l.objid::bigint as base, l.pid, l.virtualtransaction
              from lock l where l.locktype = 'advisory'
        ), producer as (
            select distinct on (h.partition_id) h.partition_id, h.pid, a.application_name, coalesce(a.xact_start, x.prepared) as since, x.gid,
                   count(*) over (partition by h.partition_id) as producers
              from held h
              left join pg_stat_activity a on a.pid = h.pid
              left join lock own on h.pid is null and own.locktype = 'transactionid' and own.virtualtransaction = h.virtualtransaction
              left join pg_prepared_xacts x on x.transaction = own.transactionid
             order by h.partition_id, coalesce(a.xact_start, x.prepared), h.pid
        ), lowest as (
            select h.partition_id, min(((h.base - n.next_offset + 549755813888) & 1099511627775) - 549755813888) as distance
              from held h join unnest(ids, next_offsets) n (partition_id, next_offset) using (partition_id)
             group by h.partition_id
        )
        select n.partition_id, n.next_offset,
               case when not pg_is_in_recovery() then n.next_offset + least(coalesce(w.distance, 0), 0) end,
               coalesce(p.producers, 0), p.pid, p.application_name, p.since, p.gid
          from unnest(ids, next_offsets) n (partition_id, next_offset)
          left join lowest w using (partition_id)
          left join producer p using (partition_id);
end
$$;
