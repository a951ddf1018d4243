-- Say that a topic, or a partition of it, does not exist.
--
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError); always one of them
create or replace function pgq._raise_unknown_partition(topic text, partition int)
returns void
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    partitions int := (select t.partitions from pgq.topic t where t.topic_id = pgq._topic_id(topic));
begin
    raise exception 'unknown partition % of topic %', coalesce(partition::text, 'NULL'), quote_literal(topic)
        using errcode = 'PQ002', hint = format('The topic has partitions 0 to %s.', partitions - 1);
end
$$;
