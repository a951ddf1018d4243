-- Look at up to 100 partitions of compacted topics, and say which of them are to be compacted now.
--
-- after   the partition_id after which to go on, 0 at first
-- at      the time against which tombstones and records are old
-- returns a row a partition that was looked at: its id, and whether a pass over it is due. One that only has a copy
--         left by a compaction that was killed is due, too, whatever its topic's cleanup.policy
-- transaction  short, and its own
-- locks   a few for each partition, until the transaction ends
create or replace function pgq._compaction_due(after int default 0, at timestamptz default clock_timestamp())
returns table (partition_id int, due boolean)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    candidate record;
begin
    for candidate in
        select p as part, l.partition_id is not null as has_copies
          from pgq.partition p
          join pgq.topic t on t.topic_id = p.topic_id and t.state = 'ready'
          left join (select distinct c.partition_id from pgq._compaction_copies() c) l
            on l.partition_id = p.partition_id
         where p.partition_id > _compaction_due.after
           and (l.partition_id is not null
                or pgq._config_value(t.topic_id, 'cleanup.policy') like '%compact%')
         order by p.partition_id limit 100
    loop
        partition_id := (candidate.part).partition_id;
        due := candidate.has_copies;
        begin
            if not due then
                due := (pgq._compaction_state(candidate.part, _compaction_due.at)).due;
            end if;
        exception when undefined_table or internal_error then
            due := false;  -- the topic is being deleted
        end;
        return next;
    end loop;
end
$$;
