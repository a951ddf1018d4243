-- Name of a topic's procedure, for pgq.produce when it has not found that: the topic is unknown, or was made just now.
--
-- raises  PQ001 (UnknownTopicError)
create or replace function pgq._produce_target(topic text)
returns text
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    perform pgq._topic_id(topic);
    return pgq._produce_procedure(topic);
end
$$;
