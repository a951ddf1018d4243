-- The id of a topic that can be used.
--
-- raises  PQ001 (UnknownTopicError)
create or replace function pgq._topic_id(name text)
returns int
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    topic pgq.topic;
begin
    select t.* into topic from pgq.topic t where t.name = _topic_id.name;
    if topic.state is distinct from 'ready' then
        raise exception 'unknown topic %', coalesce(quote_literal(name), 'NULL')
            using errcode = 'PQ001',
                  hint = case topic.state when 'creating' then 'It is being created: go on with pgq.create_topic_step or `pgq topic create`.'
                                          when 'deleting' then 'It is being deleted: go on with pgq.delete_topic_step or `pgq topic delete`.'
                                          else 'Create it with pgq.create_topic, or see pgq.list_topics().' end;
    end if;
    return topic.topic_id;
end
$$;
