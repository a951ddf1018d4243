-- Create a topic.
--
-- name        1 to 249 of [a-zA-Z0-9._-]
-- partitions  1 to 50 here
-- config      an object of configuration keys (table pgq.topic_config) and values
-- returns the description, as pgq.describe_topic
-- transaction  joins the caller's; invisible to others until it commits
-- raises  PQ003 (TopicAlreadyExistsError), PQ004 (InvalidTopicError), PQ005 (InvalidPartitionsError), PQ006 (InvalidConfigError)
create or replace function pgq.create_topic(name text, partitions int default 1, config jsonb default '{}')
returns pgq.topic_description
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int;
begin
    perform pgq._check_topic_name(name);
    if partitions is null or partitions not between 1 and 50 then
        raise exception 'cannot create a topic of % partitions', coalesce(partitions::text, 'NULL')
            using errcode = 'PQ005',
                  hint = 'Give 1 to 50: more in one transaction would use up the lock table that all sessions share.';
    end if;
    insert into pgq.topic as t (name, partitions, config)
    values (name, partitions, pgq._check_topic_config(config))
    on conflict do nothing
    returning t.topic_id into id;
    if id is null then
        raise exception 'topic % exists already', quote_literal(name)
            using errcode = 'PQ003', hint = 'Choose another name, or use the topic as it is (pgq.describe_topic).';
    end if;
    execute format('create table pgq_log.t%s (partition int not null, "offset" bigint not null, "timestamp" timestamptz not null,'
                   ' key bytea, value bytea, header_keys text[], header_values bytea[], codec smallint)'
                   ' partition by list (partition)', id);
    execute format('comment on table pgq_log.t%s is %L', id, 'topic ' || name);
    execute format('create trigger append_rule before insert on pgq_log.t%s for each statement'
                   ' execute function pgq._refuse_direct_insert()', id);
    for p in 0 .. partitions - 1 loop
        perform pgq._create_partition(id, p);
    end loop;
    perform pgq._define_produce(id);
    return pgq.describe_topic(name);
end
$$;
