-- Bring a topic, or the partitions it was given, into use.
create or replace function pgq._finish_topic(topic_id int, partitions int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    update pgq.topic t set state = 'ready', partitions = _finish_topic.partitions where t.topic_id = _finish_topic.topic_id;
    perform pgq._define_topic(topic_id);
end
$$;
