-- What a client has to know of a topic: its id, the ids of its partitions in order, and what its configuration says of
-- records.
--
-- raises  PQ001 (UnknownTopicError)
create or replace function pgq._topic_metadata(
    topic text, out topic_id int, out partition_ids int[], out max_message_bytes bigint, out compression_type text,
    out timestamp_after_max_ms bigint, out needs_key boolean)
language plpgsql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    topic_id := pgq._topic_id(topic);
    partition_ids := array(select p.partition_id from pgq.topic t join pgq.partition p using (topic_id)
                            where t.topic_id = _topic_metadata.topic_id and p.partition < t.partitions order by p.partition);
    max_message_bytes := pgq._config_value(topic_id, 'max.message.bytes')::bigint;
    compression_type := pgq._config_value(topic_id, 'compression.type');
    timestamp_after_max_ms := case pgq._config_value(topic_id, 'message.timestamp.type')
                                  when 'CreateTime' then pgq._config_value(topic_id, 'message.timestamp.after.max.ms')::bigint end;
    needs_key := pgq._config_value(topic_id, 'cleanup.policy') like '%compact%';
end
$$;
