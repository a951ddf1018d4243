-- Next offset of a partition to be taken.
--
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ010 (NotLeaderError)
create or replace function pgq.log_end_offset(topic text, partition int)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition := pgq._partition(topic, partition);
begin
    perform pgq._check_leader();
    return pgq._next_offset(part.sequence);
end
$$;
