-- The next offsets of up to 100 partitions: where nothing was appended they stay what they were.
--
-- after   the partition_id after which to go on, 0 at first
-- returns a row a partition of topics that can be used
-- locks   the sequences of these, until the transaction ends
create or replace function pgq._next_offsets(after int)
returns table (partition_id int, next_offset bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    for attempt in 1 .. 5 loop
        begin
            return query
                -- in the order in which all lock sequences
                with part as materialized (
                    select p.partition_id, p.sequence from pgq.partition p join pgq.topic t using (topic_id)
                     where p.partition_id > _next_offsets.after and t.state = 'ready' order by p.partition_id limit 100
                )
                select p.partition_id, pgq._next_offset(p.sequence) from part p;
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
