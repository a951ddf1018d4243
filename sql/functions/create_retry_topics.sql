-- See that a group has a retry topic and a dead letter topic for each of some topics; return the names of the retry topics.
--
-- group_id  any that makes, with the topics, legal names: <topic>.<group_id>.retry and <topic>.<group_id>.dlq
-- topics    what the group reads; those of them that are its own retry topics are passed over
-- returns the retry topics, in the order of topics. They have as many partitions as the topic, 12 at most; the dead letter topic has
--         one, and keeps its records for ever
-- transaction  joins the caller's; invisible to others until it commits. Writes nothing where all is there
-- raises  PQ001 (UnknownTopicError), PQ004 (InvalidTopicError): a name is illegal, or it is that of another topic;
--         PQ019 (InvalidGroupIdError): no topic can have it in its name
create or replace function pgq.create_retry_topics(group_id text, topics text[])
returns setof text
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    origin text;
    kind text;
    id int;
    of_topic pgq.topic;
    settings jsonb;
    n int;
    owner pgq.failure_topic;
begin
    perform pgq._check_group_id(group_id);
    if group_id !~ '^[a-zA-Z0-9._-]+$' then
        raise exception 'no retry topic can be named after group %', quote_literal(group_id)
            using errcode = 'PQ019', hint = 'Use letters, digits, ".", "_" and "-"; or do without retry topics, with retry=None.';
    end if;
    foreach origin in array coalesce(topics, '{}') loop
        continue when exists (select from pgq.failure_topic f join pgq.topic t using (topic_id)
                               where t.name = origin and f.kind = 'retry' and f.group_id = create_retry_topics.group_id);
        foreach kind in array array['retry', 'dead letter'] loop
            continue when exists (select from pgq.failure_topic f join pgq.topic t using (topic_id)
                                   where f.origin = origin and f.group_id = create_retry_topics.group_id
                                     and f.kind = kind and t.state = 'ready');
            perform pgq._check_topic_name(pgq._failure_topic_name(origin, group_id, kind));
            -- made like the topic; where that was deleted, and what failed before still comes, like what is left
            select t.* into of_topic
              from pgq.failure_topic f join pgq.topic t on t.topic_id = f.topic_id and t.state = 'ready'
             where f.origin = origin and f.group_id = create_retry_topics.group_id and f.kind <> kind
               and not exists (select from pgq.topic o where o.name = origin and o.state = 'ready');
            if not found then
                select t.* into strict of_topic from pgq.topic t where t.topic_id = pgq._topic_id(origin);
            end if;
            n := case kind when 'retry' then least(of_topic.partitions, 12) else 1 end;
            settings := coalesce((select jsonb_object_agg(c.key, c.value) from jsonb_each(of_topic.config) c
                                   where c.key in ('max.message.bytes', 'min.insync.replicas', 'retention.ms', 'retention.bytes')), '{}')
                        || case kind when 'retry' then '{}' else '{"retention.ms": -1, "retention.bytes": -1}'::jsonb end;
            id := pgq._begin_topic(pgq._failure_topic_name(origin, group_id, kind), n, settings);
            if id is null then
                -- somebody has made it in the meantime; else it is the application's own, which may have any configuration
                select t.topic_id into id from pgq.topic t where t.name = pgq._failure_topic_name(origin, group_id, kind);
            else
                for partition in 0 .. n - 1 loop
                    perform pgq._create_partition(id, partition);
                end loop;
                perform pgq._finish_topic(id, n);
                insert into pgq.failure_topic (topic_id, kind, group_id, origin) values (id, kind, group_id, origin);
            end if;
            select f.* into owner from pgq.failure_topic f where f.topic_id = id;
            if (owner.kind = kind and owner.group_id = create_retry_topics.group_id and owner.origin = origin) is not true then
                raise exception 'topic % is there already, and not for what group % could not process of %',
                    quote_literal(pgq._failure_topic_name(origin, group_id, kind)), quote_literal(group_id), quote_literal(origin)
                    using errcode = 'PQ004',
                          hint = case when owner.topic_id is null then 'Name the group otherwise, or delete that topic.'
                                      else format('It has what group %L could not process of topic %L: name the group otherwise.',
                                                  owner.group_id, owner.origin) end;
            end if;
        end loop;
        return next pgq._failure_topic_name(origin, group_id, 'retry');
    end loop;
end
$$;
