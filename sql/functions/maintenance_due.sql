-- What the service should have done and has not: nothing, while one runs and others let it. What `pgq doctor` tells.
--
-- grace   how long the service may take, and others may hold segments that it is to drop
-- returns a row a thing that is overdue: the job, the topic and partition (null where it has none), what is to be done, and
--         for how long the job has not ended well; null: it never has
-- transaction  joins the caller's
-- locks   a few for each partition of topics that can be used, until the transaction ends
-- raises  PQ010 (NotLeaderError)
create or replace function pgq.maintenance_due(grace interval default '10 minutes')
returns table (job text, topic text, partition int, finding text, since interval)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    part pgq.partition;
    decision record;
    idle interval;
    overdue interval;
begin
    perform pgq._check_leader();
    job := 'retention';
    idle := (select clock_timestamp() - j.succeeded_at from pgq.job j where j.job = 'retention');
    since := idle;
    if idle is null or idle > maintenance_due.grace then
        for part in select p.* from pgq.partition p join pgq.topic t using (topic_id) where t.state = 'ready' order by p.partition_id loop
            topic := (select t.name from pgq.topic t where t.topic_id = part.topic_id);
            partition := part.partition;
            begin
                decision := pgq._expired(part, clock_timestamp() - maintenance_due.grace);
                finding := concat_ws('; ',
                    case when decision.log_start > part.log_start_offset
                         then format('records before offset %s are to be deleted', decision.log_start)
                         when decision.roll_first then 'all its records are to be deleted' end,
                    (select format('%s segments below the log start are to be dropped', count(*)) from pgq.segment s
                      where s.partition_id = part.partition_id and s.end_offset <= part.log_start_offset
                     having count(*) > 0));
            exception when undefined_table or internal_error then
                finding := '';  -- the topic is being deleted
            end;
            if finding <> '' then
                return next;
            end if;
        end loop;
    else
        for topic, partition, finding in
            select t.name, p.partition,
                   format('%s segments below the log start could not be dropped for %s%s', below.segments,
                          justify_interval(date_trunc('second', clock_timestamp() - n.held_since)),
                          coalesce(', because of ' || pgq._lock_holders(below.tables), ''))
              from pgq.partition p
              join pgq.topic t on t.topic_id = p.topic_id and t.state = 'ready'
             cross join lateral (select n.tree, pgq._held_since(n.tree) as held_since
                                   from format('pgq_log.t%s_p%s', p.topic_id, p.partition) n (tree)) n
             cross join lateral (select count(*) as segments,
                                        array_agg(to_regclass(pgq._segment_name(p.topic_id, p.partition, s.base_offset))::oid)
                                            || to_regclass(n.tree)::oid as tables
                                   from pgq.segment s
                                  where s.partition_id = p.partition_id and s.base_offset < p.log_start_offset
                                    and s.end_offset <= p.log_start_offset) below
             where n.held_since < clock_timestamp() - maintenance_due.grace and below.segments > 0
             order by p.partition_id
        loop
            return next;
        end loop;
    end if;
    job := 'compaction';
    since := (select clock_timestamp() - j.succeeded_at from pgq.job j where j.job = 'compaction');
    if since is null or since > maintenance_due.grace then
        finding := 'it is to be compacted';
        for topic, partition in
            select t.name, p.partition
              from pgq.partition p
              join pgq.topic t on t.topic_id = p.topic_id and pgq._config_value(t.topic_id, 'cleanup.policy') like '%compact%'
             where t.state = 'ready' and (pgq._compaction_state(p, clock_timestamp() - maintenance_due.grace)).due
             order by p.partition_id
        loop
            return next;
        end loop;
    end if;
    job := 'segments';
    since := (select clock_timestamp() - j.succeeded_at from pgq.job j where j.job = 'segments');
    if since is null or since > maintenance_due.grace then
        for topic, partition, finding in
            select o.topic, o.partition,
                   format('the active segment has %s, and segment.bytes is %s', pg_size_pretty(o.bytes), pg_size_pretty(o.segment_bytes))
              from pgq._oversized_segments() o order by o.partition_id
        loop
            return next;
        end loop;
    end if;
    partition := null;
    topic := null;
    job := 'delivery';
    select clock_timestamp() - j.succeeded_at into since from pgq.job j where j.job = 'delivery';
    overdue := - pgq._next_due_ms() * interval '1 millisecond';
    if overdue > maintenance_due.grace then
        finding := format('delayed records have been due for %s', justify_interval(date_trunc('second', overdue)));
        return next;
    end if;
    job := 'members';
    since := (select clock_timestamp() - j.succeeded_at from pgq.job j where j.job = 'members');
    if since is null or since > maintenance_due.grace then
        for finding in
            select format('group %s: sessions that have ended have left %s member%s', g.name, count(*), case when count(*) > 1 then 's' end)
              from pgq.group_member m join pgq.consumer_group g using (consumer_group_id)
             where m.member_id not in (select l.member_id from pgq._group_locks() l where l.member_id is not null)
               and m.joined_at < clock_timestamp() - maintenance_due.grace
               and (m.group_instance_id is null or m.dead_since < clock_timestamp() - maintenance_due.grace
                                                                  - m.session_timeout_ms * interval '1 millisecond')
             group by g.name order by g.name
        loop
            return next;
        end loop;
    end if;
    job := 'markers';
    since := (select clock_timestamp() - j.succeeded_at from pgq.job j where j.job = 'markers');
    if since is null or since > maintenance_due.grace then
        select format('flushes have been marked since %s; the markers of finished ones can go', r.rotated_at::timestamptz(0)) into finding
          from pgq.flush_rotation r
         where r.rotated_at < clock_timestamp() - interval '1 day'
           and exists (select from pgq.flush_marker f where f.slot = (r.rotation & 3)::int);
        if found then
            return next;
        end if;
    end if;
end
$$;
