-- Do a part of the creation of a topic that is too large for one transaction: call it, each time in a transaction of its
-- own, until it returns 0. Called again with the same arguments it goes on where an earlier caller stopped.
--
-- name, config  as pgq.create_topic
-- partitions    1 to 1,000
-- returns how many partitions are still to be made; with 0 the topic is ready, before that it cannot be used
-- transaction  joins the caller's; makes up to 25 partitions, so takes some 350 locks
-- locks   the topic's row, so that of two callers one waits
-- raises  PQ003 (TopicAlreadyExistsError) also if it is being made with another number of partitions, or deleted; PQ004
--         (InvalidTopicError), PQ005 (InvalidPartitionsError), PQ006 (InvalidConfigError)
create or replace function pgq.create_topic_step(name text, partitions int, config jsonb default '{}')
returns int
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    topic pgq.topic;
    id int;
    missing int;
begin
    perform pgq._check_topic_name(name);
    perform pgq._check_partitions(partitions, 1000);
    id := pgq._begin_topic(name, partitions, config);
    select t.* into topic from pgq.topic t where t.name = create_topic_step.name for update;
    if topic.state is distinct from 'creating' or topic.partitions <> partitions then
        perform pgq._raise_topic_exists(name);
    end if;
    missing := pgq._create_partitions(topic.topic_id, partitions);
    if missing = 0 then
        perform pgq._finish_topic(topic.topic_id, partitions);
    end if;
    return missing;
end
$$;
