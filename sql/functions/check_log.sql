-- Look whether the log is as the catalog says: what a copy, a restore or a hand may have broken.
--
-- returns a row a problem: the topic and partition (null where it has none), what is wrong, what to do
-- transaction  joins the caller's; right while others append, make segments, create and delete topics
-- locks   none that outlive the look at a partition
-- tables  the catalog and PostgreSQL's own by one statement, so in one snapshot; records as pgq._offsets_behind. Segments
--         below the log start are left out, since they are about to be dropped
create or replace function pgq.check_log()
returns table (topic text, partition int, problem text, remedy text)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    return query
    with relation as materialized (
        select c.oid, c.relname::text as name, c.relkind as kind, i.inhparent as parent, coalesce(i.inhdetachpending, false) as detaching,
               case when c.relispartition then pg_get_expr(c.relpartbound, c.oid) end as bound
          from pg_class c
          left join pg_inherits i on i.inhrelid = c.oid
         where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'pgq_log') and c.relkind in ('r', 'p', 'S')
    ), topic as materialized (
        select t.topic_id, t.name, t.partitions, t.state, t.state = 'ready' as ready,
               't' || t.topic_id as root, 'produce_' || md5(t.name) as procedure, pgq._view_name(t.topic_id, t.name) as view
          from pgq.topic t
    ), part as materialized (
        select t.name as topic, t.root, p.partition, p.partition_id, p.sequence, p.log_start_offset, root.oid as root_oid,
               t.root || '_p' || p.partition as name, t.root || '_p' || p.partition || '_offset' as sequence_name
          from topic t
          join pgq.partition p using (topic_id)
          left join relation root on root.name = t.root and root.kind = 'p'
    ), tree as materialized (
        select p.*, r.oid, r.parent, r.bound from part p join relation r on r.name = p.name and r.kind = 'p'
    ), segment as materialized (
        select p.topic, p.partition, p.partition_id, p.log_start_offset, p.name as tree, tree.oid as tree_oid, s.base_offset, s.end_offset,
               p.name || '_s' || s.base_offset as name,
               lead(s.base_offset) over (partition by s.partition_id order by s.base_offset) as next_base,
               format('for values from (%s) to (%s)', s.base_offset, s.end_offset) as range
          from part p
          join pgq.segment s using (partition_id)
          left join tree using (partition_id)
    ), leaf as materialized (
        select s.*, r.oid, r.parent, r.detaching, r.bound from segment s join relation r on r.name = s.name and r.kind = 'r'
    ), unlisted as materialized (
        select tree.topic, tree.partition, tree.partition_id, r.oid, r.name,
               substring(r.bound from $re$FROM \('(\d+)'\)$re$) as base_offset, substring(r.bound from $re$TO \('(\d+)'\)$re$) as end_offset
          from relation r
          join tree on tree.oid = r.parent
         where not r.detaching and not exists (select from segment s where s.name = r.name)
    ), owned as materialized (
        select r.oid from topic t join relation r on r.name = t.root
        union all select r.oid from part p join relation r on r.name in (p.name, p.sequence_name)
        union all select r.oid from segment s join relation r on r.name = s.name
        union all select u.oid from unlisted u
        -- what a compaction makes, or has left and drops next time
        union all select r.oid from relation r join part p on p.name = substring(r.name from '^(t\d+_p\d+)_s\d+_compacting$')
                   where r.kind = 'r' and r.parent is null
    )
    -- topics
    select t.name, null::int, format('it is still in state %s', t.state),
           case t.state when 'creating' then format('go on with pgq.create_topic_step(%L, %s) until it returns 0, or delete it', t.name, t.partitions)
                        else format('go on with pgq.delete_topic_step(%L) until it returns 0', t.name) end
      from topic t where not t.ready
    union all
    select t.name, null, format('it has %s partitions, of which %s are in use', max(p.partition) + 1, t.partitions),
           format('go on with pgq.add_partitions_step(%L, %s) or a greater number until it returns 0', t.name, max(p.partition) + 1)
      from topic t join part p on p.topic = t.name
     where t.ready and p.partition >= t.partitions
     group by t.name, t.partitions
    union all
    select t.name, n, 'pgq.partition has no row of it', 'restore the catalog: the copy is not complete'
      from topic t cross join generate_series(0, t.partitions - 1) n
     where t.ready and not exists (select from part p where p.topic = t.name and p.partition = n)
    union all
    select t.name, null, format('the table pgq_log.%I is missing', t.root), 'restore it with all below it'
      from topic t where not exists (select from relation r where r.name = t.root and r.kind = 'p')
    union all
    select t.name, null, format('the table pgq_log.%I has no working trigger append_rule', t.root),
           case when exists (select from pg_trigger g where g.tgrelid = r.oid and g.tgname = 'append_rule')
                then format('alter table pgq_log.%I enable trigger append_rule', t.root)
                else format('create trigger append_rule before insert on pgq_log.%I for each statement execute function pgq._refuse_direct_insert()', t.root) end
      from topic t join relation r on r.name = t.root and r.kind = 'p'
     where not exists (select from pg_trigger g where g.tgrelid = r.oid and g.tgname = 'append_rule' and g.tgenabled in ('O', 'A'))
    union all
    select t.name, null, format('the procedure pgq_log.%I is missing', t.procedure), 'run `pgq db upgrade`'
      from topic t
     where t.ready and not exists (select from pg_proc f join pg_namespace n on n.oid = f.pronamespace
                                    where n.nspname = 'pgq_log' and f.proname = t.procedure)
    union all
    select t.name, null, format('the view pgq_topic.%I is missing', t.view), 'run `pgq db upgrade`'
      from topic t
     where t.ready and not exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
                                    where n.nspname = 'pgq_topic' and c.relname = t.view and c.relkind = 'v')
    -- partitions
    union all
    select p.topic, p.partition, format('the table pgq_log.%I is missing', p.name), 'restore it with all below it'
      from part p where p.root_oid is not null and not exists (select from tree where tree.partition_id = p.partition_id)
    union all
    select p.topic, p.partition, format('the table pgq_log.%I is not attached', p.name),
           format('alter table pgq_log.%I attach partition pgq_log.%I for values in (%s)', p.root, p.name, p.partition)
      from tree p where p.root_oid is not null and p.parent is distinct from p.root_oid
    union all
    select p.topic, p.partition, format('the table pgq_log.%I is attached %s', p.name, lower(p.bound)),
           format('detach it, and attach it for values in (%s)', p.partition)
      from tree p where p.parent = p.root_oid and p.bound <> format('FOR VALUES IN (%s)', p.partition)
    union all
    select p.topic, p.partition, format('the sequence pgq_log.%I is missing', p.sequence_name),
           format('create sequence pgq_log.%I minvalue 0 start 0 cache 1; update pgq.partition set sequence = %L where partition_id = %s; then pgq.restart_offsets()',
                  p.sequence_name, 'pgq_log.' || p.sequence_name, p.partition_id)
      from part p where not exists (select from relation r where r.name = p.sequence_name and r.kind = 'S')
    union all
    select p.topic, p.partition, format('pgq.partition names another sequence than pgq_log.%I', p.sequence_name),
           format('update pgq.partition set sequence = %L where partition_id = %s', 'pgq_log.' || p.sequence_name, p.partition_id)
      from part p join relation r on r.name = p.sequence_name and r.kind = 'S' and r.oid <> p.sequence
    union all
    select p.topic, p.partition,
           format('the sequence pgq_log.%I has %s', p.sequence_name,
                  concat_ws(', ', case when q.seqcache <> 1 then 'cache ' || q.seqcache end,
                                  case when q.seqincrement <> 1 then 'increment ' || q.seqincrement end,
                                  case when q.seqmax <> 9223372036854775807 then 'maxvalue ' || q.seqmax end,
                                  case when q.seqcycle then 'cycle' end)),
           format('with the producers stopped: alter sequence pgq_log.%I as bigint increment 1 no maxvalue cache 1 no cycle', p.sequence_name)
      from part p
      join relation r on r.name = p.sequence_name and r.kind = 'S'
      join pg_sequence q on q.seqrelid = r.oid
     where q.seqcache <> 1 or q.seqincrement <> 1 or q.seqmax <> 9223372036854775807 or q.seqcycle
    -- segments
    union all
    select p.topic, p.partition, 'it has no segment', 'restore its segments, and the rows of pgq.segment'
      from tree p
     where not exists (select from segment s where s.partition_id = p.partition_id)
       and not exists (select from unlisted u where u.partition_id = p.partition_id)
    union all
    select s.topic, s.partition, format('the segment pgq_log.%I is missing', s.name),
           format('restore it; if it held no record: create table pgq_log.%1$I (like pgq_log.%2$I, primary key ("offset"));'
                  ' alter table pgq_log.%2$I attach partition pgq_log.%1$I %3$s', s.name, s.tree, s.range)
      from segment s
     where s.tree_oid is not null and s.end_offset > s.log_start_offset
       and not exists (select from leaf f where f.partition_id = s.partition_id and f.base_offset = s.base_offset)
    union all
    select s.topic, s.partition, format('the segment pgq_log.%I is not attached', s.name),
           concat(case when s.detaching then format('alter table pgq_log.%I detach partition pgq_log.%I finalize; ', s.tree, s.name) end,
                  format('alter table pgq_log.%I attach partition pgq_log.%I %s', s.tree, s.name, s.range))
      from leaf s
     where s.end_offset > s.log_start_offset and (s.parent is distinct from s.tree_oid or s.detaching)
    union all
    select s.topic, s.partition, format('the segment pgq_log.%I is attached %s, and pgq.segment says %s', s.name, lower(s.bound), s.range),
           'if the next segment begins where the table ends, correct pgq.segment; else detach the table and attach it as pgq.segment says'
      from leaf s
     where s.parent = s.tree_oid and not s.detaching and s.bound <> format('FOR VALUES FROM (%L) TO (%L)', s.base_offset, s.end_offset)
    union all
    select s.topic, s.partition, format('the segment pgq_log.%I has no primary key', s.name),
           format('alter table pgq_log.%I add primary key ("offset")', s.name)
      from leaf s
     where not exists (select from pg_index x where x.indrelid = s.oid and x.indisprimary and x.indisvalid)
    union all
    select s.topic, s.partition, format('a segment ends at %s, and the next one begins at %s', s.end_offset, s.next_base),
           'restore what is missing between them, with its row of pgq.segment'
      from segment s
     where s.next_base <> s.end_offset and greatest(s.next_base, s.end_offset) > s.log_start_offset
       and not exists (select from unlisted u where u.partition_id = s.partition_id and u.base_offset = s.end_offset::text)
    union all
    select u.topic, u.partition, format('pgq.segment does not list the attached table pgq_log.%I, so nobody reads its records', u.name),
           case when u.name like '%\_s' || u.base_offset
                then format('insert into pgq.segment (partition_id, base_offset, end_offset) values (%s, %s, %s)', u.partition_id, u.base_offset, u.end_offset)
                else 'detach it' end
      from unlisted u
    -- what belongs to nobody
    union all
    select null, null, format('the %s pgq_log.%I belongs to no topic', case r.kind when 'S' then 'sequence' else 'table' end, r.name),
           'drop it, unless its records are to be saved'
      from relation r
     where not exists (select from owned o where o.oid = r.oid) and r.name !~ '^delayed(_serial|_\d{8}_\d+)?$'
       and not r.detaching and (r.parent is null or exists (select from owned o where o.oid = r.parent))
    union all
    select null, null, format('the procedure pgq_log.%I belongs to no topic', f.proname), 'drop it'
      from pg_proc f join pg_namespace n on n.oid = f.pronamespace
     where n.nspname = 'pgq_log' and not exists (select from topic t where t.procedure = f.proname and t.ready)
    order by 1 nulls last, 2 nulls first, 3;

    return query
    select b.topic, b.partition, format('the sequence %s gives offset %s next, but %s', b.sequence, b.next_offset, b.because),
           'run pgq.restart_offsets() or `pgq db repair`'
      from pgq._offsets_behind() b;
    return query
    select null::text, null::int, format('the sequence %s gives %s next, but %s.%I holds %s', b.sequence, b.next_value, b.relation, b."column", b.greatest_value),
           'run pgq.restart_offsets() or `pgq db repair`'
      from pgq._identities_behind() b;
end
$$;
