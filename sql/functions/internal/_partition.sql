-- The catalog row of a partition.
--
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError)
create or replace function pgq._partition(topic text, partition int)
returns pgq.partition
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    result pgq.partition;
begin
    select p.* into result
      from pgq.topic t join pgq.partition p using (topic_id)
     where t.name = _partition.topic and t.state = 'ready' and p.partition = _partition.partition and p.partition < t.partitions;
    if not found then
        perform pgq._raise_unknown_partition(topic, partition);
    end if;
    return result;
end
$$;
