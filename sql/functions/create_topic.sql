-- Create a topic.
--
-- name        1 to 249 of [a-zA-Z0-9._-]
-- partitions  1 to 50 here; pgq.create_topic_step makes more
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
    perform pgq._check_partitions(partitions, 50);
    id := pgq._begin_topic(name, partitions, config);
    if id is null then
        perform pgq._raise_topic_exists(name);
    end if;
    for p in 0 .. partitions - 1 loop
        perform pgq._create_partition(id, p);
    end loop;
    perform pgq._finish_topic(id, partitions);
    return pgq.describe_topic(name);
end
$$;
