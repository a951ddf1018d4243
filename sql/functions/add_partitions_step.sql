-- Do a part of giving a topic more partitions: call it, each time in a transaction of its own, until it returns 0.
-- Called again with the same arguments it goes on where an earlier caller stopped.
--
-- name        the topic
-- partitions  how many it shall have in all, more than now and up to 1,000
-- returns how many partitions are still to be made; with 0 all of them come into use at once, before that none
-- transaction  joins the caller's; makes up to 25 partitions, so takes some 350 locks
-- locks   the topic's row, so that of two callers one waits
-- raises  PQ001 (UnknownTopicError), PQ005 (InvalidPartitionsError)
create or replace function pgq.add_partitions_step(name text, partitions int)
returns int
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    topic pgq.topic;
    missing int;
begin
    perform pgq._check_partitions(partitions, 1000);
    select t.* into topic from pgq.topic t where t.topic_id = pgq._topic_id(add_partitions_step.name) for update;
    if topic.state is distinct from 'ready' then
        perform pgq._topic_id(name);  -- deleted meanwhile
    end if;
    if partitions <= topic.partitions then
        raise exception 'topic % has % partitions, which cannot become %', quote_literal(name), topic.partitions, partitions
            using errcode = 'PQ005', hint = 'Give the number that it shall have in all: more than now.';
    end if;
    missing := pgq._create_partitions(topic.topic_id, partitions);
    if missing = 0 then
        perform pgq._finish_topic(topic.topic_id, partitions);
    end if;
    return missing;
end
$$;
