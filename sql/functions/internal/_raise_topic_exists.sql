-- Say that a topic's name is taken.
--
-- raises  PQ003 (TopicAlreadyExistsError), always
create or replace function pgq._raise_topic_exists(name text)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    topic pgq.topic;
begin
    select t.* into topic from pgq.topic t where t.name = _raise_topic_exists.name;
    raise exception 'topic % %', quote_literal(name),
        case topic.state when 'creating' then format('is being created with %s partitions', topic.partitions)
                         when 'deleting' then 'is being deleted' else 'exists already' end
        using errcode = 'PQ003',
              hint = case topic.state when 'creating' then 'Go on with that number of partitions (pgq.create_topic_step), or delete it (pgq.delete_topic_step).'
                                      when 'deleting' then 'Go on deleting it (pgq.delete_topic_step) and create it then.'
                                      else 'Choose another name, or use the topic as it is (pgq.describe_topic).' end;
end
$$;
