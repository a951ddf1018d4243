-- See that nobody new uses a topic, whatever its state; returns its id.
--
-- locks   the topic's row; waits for appends that run to take their offsets
-- raises  PQ001 (UnknownTopicError)
create or replace function pgq._begin_delete(name text)
returns int
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    topic pgq.topic;
begin
    select t.* into topic from pgq.topic t where t.name = _begin_delete.name for update;
    if topic.topic_id is null then
        perform pgq._topic_id(name);
    end if;
    if topic.state <> 'deleting' then
        update pgq.topic t set state = 'deleting' where t.topic_id = topic.topic_id;
        if to_regproc(pgq._produce_procedure(name)) is not null then
            execute format('drop procedure %s', pgq._produce_procedure(name));
        end if;
        execute format('drop view if exists pgq_topic.%I', pgq._view_name(topic.topic_id, name));
    end if;
    return topic.topic_id;
end
$$;
