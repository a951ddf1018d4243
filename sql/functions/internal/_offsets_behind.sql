-- The partitions whose sequence would give an offset that is not past all that is known of the partition: records, log
-- start, ranges that rolls skipped, committed offsets. An offset at or below one of those fails as a duplicate, or its
-- record is never read. Also those whose sequence was set and not called since, which pg_sequence_last_value does not see.
--
-- of_partition  the partition_id to look at; null: all
-- returns  next_offset: what the sequence gives next; least_offset: what it should give at least; because: why
-- locks    none that outlive the look at a partition: those on its segments end with a subtransaction
-- tables   records are read first, the sequence after them, so that appends meanwhile are never taken for an error.
--          Of records only the greatest offset of the last segment that has any is read, by its index. An offset that
--          was committed beyond the last segment can be none that the sequence gave, so it does not count
create or replace function pgq._offsets_behind(of_partition int default null)
returns table (topic text, partition int, partition_id int, sequence text, next_offset bigint, least_offset bigint, because text)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    part record;
    segment record;
    last_offset bigint;
    called boolean;
begin
    for part in
        select t.name as topic, p.partition, p.partition_id, p.log_start_offset, tree.name as tree,
               tree.name || '_offset' as sequence,
               (select max(r.to_offset) from pgq.skipped_range r where r.partition_id = p.partition_id) as skipped_to,
               (select max(c."offset")
                  from pgq.consumer_group g
                 cross join lateral (select c."offset" from pgq.committed_offset c
                                      where c.consumer_group_id = g.consumer_group_id and c.partition_id = p.partition_id
                                      order by c.serial desc limit 1) c
                 where c."offset" <= (select max(s.end_offset) from pgq.segment s where s.partition_id = p.partition_id)) as committed
          from pgq.partition p
          join pgq.topic t using (topic_id)
         cross join lateral (select format('pgq_log.t%s_p%s', p.topic_id, p.partition)) tree (name)
         where of_partition is null or p.partition_id = of_partition
         order by p.partition_id
    loop
        continue when to_regclass(part.sequence) is null;
        last_offset := null;
        next_offset := null;
        begin
            for segment in
                select format('%s_s%s', part.tree, s.base_offset) as leaf
                  from pgq.segment s where s.partition_id = part.partition_id order by s.base_offset desc
            loop
                continue when to_regclass(segment.leaf) is null;
                execute format('select max("offset") from %s', segment.leaf) into last_offset;
                exit when last_offset is not null;
            end loop;
            -- not pgq._next_offset, whose lock on the sequence would stay
            execute format('select last_value + is_called::int, is_called from %s', part.sequence) into next_offset, called;
            raise exception 'taken back' using errcode = 'triggered_action_exception';
        exception
            when triggered_action_exception then null;  -- the locks are gone, what was read is not
            when undefined_table then null;  -- dropped while it was looked at
        end;
        topic := part.topic;
        partition := part.partition;
        partition_id := part.partition_id;
        sequence := part.sequence;
        least_offset := greatest(last_offset + 1, part.log_start_offset, part.skipped_to, part.committed);
        continue when next_offset is null or least_offset = 0 or (next_offset >= least_offset and called);
        because := case when next_offset >= least_offset then 'it was set and not called since, so that readers take it for 0' else
                   case least_offset when last_offset + 1 then format('the last record is at %s', last_offset)
                                     when part.log_start_offset then format('the log starts at %s', part.log_start_offset)
                                     when part.skipped_to then format('a roll skipped to %s', part.skipped_to)
                                     else format('a group has committed %s', part.committed) end end;
        return next;
    end loop;
end
$$;
