-- First offset of a partition that readers do not reach yet: an open transaction may fill it, or it was never taken.
--
-- transaction  any; what an open transaction of the caller's own produced counts as undecided
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ010 (NotLeaderError)
create or replace function pgq.high_watermark(topic text, partition int)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition := pgq._partition(topic, partition);
begin
    perform pgq._check_leader();
    return pgq._high_watermark(part.partition_id, part.sequence);
end
$$;
