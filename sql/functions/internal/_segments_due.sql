-- Look at up to 100 partitions, and say in which of them pgq.upkeep has to make or roll a segment because of its size.
--
-- after   the partition_id after which to go on, 0 at first
-- returns a row a partition that was looked at: its id, and whether something is due
-- locks   the sequences of these, until the transaction ends
create or replace function pgq._segments_due(after int)
returns table (partition_id int, due boolean)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    for attempt in 1 .. 5 loop
        begin
            return query
                -- the sequences first, in the order in which all lock them; materialized, so that it is this one
                with part as materialized (
                    select p.partition_id, p.topic_id, p.partition, p.sequence from pgq.partition p join pgq.topic t using (topic_id)
                     where p.partition_id > _segments_due.after and t.state = 'ready' order by p.partition_id limit 100
                ), looked as materialized (
                    select p.partition_id, p.topic_id, p.partition, pgq._next_offset(p.sequence) as next_offset from part p
                ), topic as materialized (
                    select t.topic_id, pgq._segment_bytes(t.topic_id) as segment_bytes
                      from pgq.topic t where t.topic_id in (select p.topic_id from part p)
                )
                select p.partition_id,
                       coalesce(p.next_offset > last.base_offset + (last.end_offset - last.base_offset) / 2
                                or pg_total_relation_size(to_regclass(pgq._segment_name(p.topic_id, p.partition, active.base_offset)))
                                   >= 1.25 * t.segment_bytes, false)
                  from looked p
                  join topic t using (topic_id)
                 cross join lateral (select s.base_offset, s.end_offset from pgq.segment s
                                      where s.partition_id = p.partition_id order by s.base_offset desc limit 1) last
                  left join lateral (select s.base_offset from pgq.segment s
                                      where s.partition_id = p.partition_id and s.base_offset < p.next_offset and s.end_offset > p.next_offset
                                      order by s.base_offset desc limit 1) active on true
                 order by p.partition_id;
            return;
        exception when undefined_table or internal_error or deadlock_detected then
            -- a topic was deleted while this waited for it: the next look knows
            if attempt = 5 then
                raise;
            end if;
        end;
    end loop;
end
$$;
