-- The id of a topic.
--
-- raises  PQ001 (UnknownTopicError)
create or replace function pgq._topic_id(name text)
returns int
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    result int := (select t.topic_id from pgq.topic t where t.name = _topic_id.name);
begin
    if result is null then
        raise exception 'unknown topic %', coalesce(quote_literal(name), 'NULL')
            using errcode = 'PQ001', hint = 'Create it with pgq.create_topic, or see pgq.list_topics().';
    end if;
    return result;
end
$$;
