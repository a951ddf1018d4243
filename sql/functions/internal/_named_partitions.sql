-- The partitions that parallel arrays of topics and partitions name.
--
-- partitions  null, or a null element: every partition of the topic
-- returns a row a partition, each once; nth is where it stands in the arrays
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ023 (InvalidRequestError)
create or replace function pgq._named_partitions(topics text[], partitions int[])
returns table (partition_id int, topic text, partition int, log_start_offset bigint, nth bigint)
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    unknown record;
begin
    if topics is null or cardinality(partitions) <> cardinality(topics) then
        raise exception 'arrays of different lengths'
            using errcode = 'PQ023', hint = 'Give a partition for each topic; null for all its partitions.';
    end if;
    for unknown in
        select n.topic, n.partition from unnest(topics, partitions) n (topic, partition)
          left join pgq.topic t on t.name = n.topic and t.state = 'ready'
         where t.topic_id is null or n.partition < 0 or n.partition >= t.partitions
    loop
        perform pgq._raise_unknown_partition(unknown.topic, unknown.partition);
    end loop;
    return query
        select distinct on (p.partition_id) p.partition_id, t.name, p.partition, p.log_start_offset, n.nth
          from unnest(topics, partitions) with ordinality n (topic, partition, nth)
          join pgq.topic t on t.name = n.topic and t.state = 'ready'
          join pgq.partition p on p.topic_id = t.topic_id and p.partition < t.partitions
         where p.partition = coalesce(n.partition, p.partition)
         order by p.partition_id, n.nth;
end
$$;
