-- Note which partitions have segments below their log start that others keep from being dropped, for pgq.maintenance_due and
-- for whoever leads next: as a comment on the partition's table. It goes when all of them are dropped.
--
-- held    partitions to be noted, unless they are
-- returns a row a partition that is noted: since how many seconds
-- transaction  short, and its own
-- locks   SHARE UPDATE EXCLUSIVE on the tables whose comment changes, until the transaction ends, waited for 50 ms each: makers of
--         segments wait meanwhile
create or replace function pgq._note_held(held int[])
returns table (partition_id int, held_s double precision)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = '50ms'
as $$
#variable_conflict use_column
declare
    part record;
begin
    for part in
        select p.partition_id, p.tree, p.since, p.is_below
          from (select p.partition_id, n.tree, pgq._held_since(n.tree) as since,
                       exists (select from pgq.segment s where s.partition_id = p.partition_id
                                  and s.base_offset < p.log_start_offset and s.end_offset <= p.log_start_offset) as is_below
                  from pgq.partition p join pgq.topic t on t.topic_id = p.topic_id and t.state = 'ready'
                 cross join lateral (select format('pgq_log.t%s_p%s', p.topic_id, p.partition) as tree) n) p
         where p.since is not null or p.partition_id = any (_note_held.held)
         order by p.partition_id
    loop
        begin
            if part.since is null then
                part.since := clock_timestamp();
                execute format('comment on table %s is %L', part.tree,
                    'Segments below the log start have been held since ' || to_char(part.since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'));
            elsif not part.is_below then
                execute format('comment on table %s is null', part.tree);
                continue;
            end if;
        exception when lock_not_available or undefined_table or internal_error then
            continue;  -- at another time; or it is being deleted
        end;
        partition_id := part.partition_id;
        held_s := greatest(0, extract(epoch from clock_timestamp() - part.since));
        return next;
    end loop;
end
$$;
