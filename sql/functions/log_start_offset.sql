-- First offset of a partition that is still readable.
--
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError)
create or replace function pgq.log_start_offset(topic text, partition int)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition := pgq._partition(topic, partition);
begin
    return part.log_start_offset;
end
$$;
