-- Where a record that failed goes: a topic, made if it is missing, and a partition by the key, or any.
--
-- raises  what pgq.create_retry_topics raises; PQ004 (InvalidTopicError) if the topic is just being made or deleted
create or replace function pgq._failure_target(origin text, group_id text, kind text, key bytea, out topic_id int, out partition int)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    n int;
begin
    for attempt in 1 .. 2 loop
        select t.topic_id, t.partitions into topic_id, n
          from pgq.failure_topic f join pgq.topic t on t.topic_id = f.topic_id and t.state = 'ready'
         where f.origin = _failure_target.origin and f.group_id = _failure_target.group_id and f.kind = _failure_target.kind;
        exit when found;
        if attempt = 2 then
            raise exception 'group % has no % topic for %', quote_literal(group_id), kind, quote_literal(origin)
                using errcode = 'PQ004',
                      hint = 'It is just being made or deleted: try again.';
        end if;
        perform pgq.create_retry_topics(group_id, array[origin]);
    end loop;
    partition := case when key is null then floor(random() * n)::int else pgq.partition_for_key(key, n) end;
end
$$;
