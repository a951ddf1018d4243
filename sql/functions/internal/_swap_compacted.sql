-- Put the copy of what remains of some segments in their place: under the name of the first of them, from where that
-- begins to where the last one ends.
--
-- bases            the segments' base offsets, in order, without a gap
-- end_offset       where the last of them ends
-- lock_timeout_ms  how long to wait for all locks together; who wants them, too, waits as long, and for the swap
-- returns 'swapped'; 'busy': nothing was changed, somebody holds a lock; 'changed': nor was it, and the segments are
--         not what they were: retention, or the topic's deletion, was faster
-- transaction  short, and its own; with synchronous_commit = local, so that nobody waits for standbys
-- locks   ACCESS EXCLUSIVE on the segments first, which only readers of old records use, then on the partition's
--         table, so that a view shows each record whenever it looks. The partition's row: the log start does not move
--         meanwhile, so that nothing that retention is about to drop is merged with what it is not
create or replace function pgq._swap_compacted(
    partition_id int, bases bigint[], end_offset bigint, lock_timeout_ms int default 50)
returns text
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = 0
as $$
#variable_conflict use_variable
declare
    part pgq.partition;
    tree text;
    leaf text;
    leaves text[];
    copy text;
    name text;
    until constant timestamptz := clock_timestamp() + lock_timeout_ms * interval '1 millisecond';
begin
    perform set_config('lock_timeout', lock_timeout_ms || 'ms', true);
    select p.* into part from pgq.partition p where p.partition_id = _swap_compacted.partition_id for share;
    if not found then
        return 'changed';
    end if;
    tree := format('pgq_log.t%s_p%s', part.topic_id, part.partition);
    leaves := array(select pgq._segment_name(part.topic_id, part.partition, b.base)
                      from unnest(bases) with ordinality b (base, nth) order by b.nth);
    leaf := leaves[1];
    copy := leaf || '_compacting';
    foreach name in array array[copy] || leaves || tree loop
        perform set_config('lock_timeout',
                           greatest(1, ceil(extract(epoch from until - clock_timestamp()) * 1000))::int || 'ms', true);
        execute format('lock table only %s in access exclusive mode', name);
    end loop;
    -- with a snapshot that is newer than the locks
    if array(select s.base_offset from pgq.segment s
              where s.partition_id = part.partition_id and s.base_offset >= bases[1] and s.base_offset < end_offset
                and s.bytes is not null and s.end_offset > part.log_start_offset
              order by s.base_offset) <> bases
       or end_offset <> (select s.end_offset from pgq.segment s
                          where s.partition_id = part.partition_id and s.base_offset = bases[cardinality(bases)])
       or cardinality(leaves) <> (select count(*) from pg_inherits i
                                   where i.inhparent = tree::regclass and not i.inhdetachpending
                                     and i.inhrelid = any (leaves::regclass[])) then
        return 'changed';
    end if;
    foreach name in array leaves loop
        execute format('drop table %s', name);
    end loop;
    execute format('alter table %s rename to %I', copy, split_part(leaf, '.', 2));
    execute format('alter table %s rename constraint %I to %I', leaf,
                   split_part(copy, '.', 2) || '_pkey', split_part(leaf, '.', 2) || '_pkey');
    execute format('alter index %s_brin rename to %I', copy, split_part(leaf, '.', 2) || '_timestamp_idx');
    execute format('alter table %s attach partition %s for values from (%s) to (%s)', tree, leaf, bases[1], end_offset);
    execute format('alter table %s drop constraint bounds', leaf);
    delete from pgq.segment s where s.partition_id = part.partition_id and s.base_offset = any (bases[2:]);
    update pgq.segment s set end_offset = _swap_compacted.end_offset, bytes = pg_total_relation_size(leaf::regclass)
     where s.partition_id = part.partition_id and s.base_offset = bases[1];
    return 'swapped';
exception
    when lock_not_available or deadlock_detected then
        return 'busy';
    when undefined_table then
        return 'changed';
end
$$;
