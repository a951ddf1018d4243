-- Give a topic more partitions. Records of a key go to another partition from then on; those that are there stay.
--
-- name        the topic
-- partitions  how many it shall have in all: more than now, at most 50 more here; pgq.add_partitions_step adds more
-- returns the description, as pgq.describe_topic
-- transaction  joins the caller's. Producers see it when they next ask for the topic's metadata
-- raises  PQ001 (UnknownTopicError), PQ005 (InvalidPartitionsError)
create or replace function pgq.add_partitions(name text, partitions int)
returns pgq.topic_description
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    present int := (pgq.describe_topic(name)).partitions;
begin
    if partitions - present > 50 then
        perform pgq._check_partitions(partitions - present, 50);
    end if;
    while pgq.add_partitions_step(name, partitions) > 0 loop
        null;
    end loop;
    return pgq.describe_topic(name);
end
$$;
