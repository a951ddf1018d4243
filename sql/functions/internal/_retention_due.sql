-- Look at up to 100 partitions: note the size of segments to which nothing can be added any more, and say which partitions
-- retention has something to do in.
--
-- after   the partition_id after which to go on, 0 at first
-- at      the time against which records are old
-- returns a row a partition that was looked at: its id, whether pgq._apply_retention has something to do, and whether
--         pgq.upkeep has, because the active segment's records span segment.ms
-- transaction  short, and its own
-- locks   a few for each partition, until the transaction ends
create or replace function pgq._retention_due(after int, at timestamptz default clock_timestamp())
returns table (partition_id int, due boolean, upkeep_due boolean)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    part pgq.partition;
    decision record;
    next_offset bigint;
begin
    for part in
        select p.* from pgq.partition p join pgq.topic t using (topic_id)
         where p.partition_id > _retention_due.after and t.state = 'ready' order by p.partition_id limit 100
    loop
        partition_id := part.partition_id;
        begin
            update pgq.segment s
               set bytes = pg_total_relation_size(to_regclass(pgq._segment_name(part.topic_id, part.partition, s.base_offset)))
             where s.partition_id = part.partition_id and s.bytes is null
               and s.end_offset <= pgq._next_offset(part.sequence)
               and s.end_offset <= pgq._high_watermark(part.partition_id, part.sequence);
            decision := pgq._expired(part, _retention_due.at);
            due := decision.log_start > part.log_start_offset or decision.roll_first;
            next_offset := pgq._next_offset(part.sequence);
            upkeep_due := coalesce((
                select pgq._segment_span_ms(pgq._segment_name(part.topic_id, part.partition, s.base_offset))
                  from pgq.segment s
                 where s.partition_id = part.partition_id and s.base_offset < next_offset
                   and s.end_offset > next_offset) > pgq._config_value(part.topic_id, 'segment.ms')::bigint, false);
        exception when undefined_table or internal_error then
            due := false;  -- the topic is being deleted
            upkeep_due := false;
        end;
        return next;
    end loop;
end
$$;
