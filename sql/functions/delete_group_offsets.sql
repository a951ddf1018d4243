-- Forget what a group committed for partitions; returns how many of them had an offset. The group itself stays.
--
-- topics, partitions  parallel arrays; null partitions, or a null element: every partition of the topic
-- transaction  joins the caller's
-- locks   the group's row, the owners' rows
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ023 (InvalidRequestError),
--         PQ040 (GroupIdNotFoundError), PQ041 (GroupSubscribedToTopicError): living members read the topic
-- source  Kafka's OffsetDelete
create or replace function pgq.delete_group_offsets(group_id text, topics text[], partitions int[] default null)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := pgq._lock_group(group_id);
    ids int[] := array(select n.partition_id from pgq._named_partitions(topics, partitions) n);
    subscribed text;
    result bigint;
begin
    select t.name into subscribed
      from pgq.topic t
     where t.name = any (topics)
       and (exists (select from pgq.group_member m
                     where m.consumer_group_id = id and t.name = any (m.topics) and pgq._is_alive(m.member_id))
            -- one that reads other topics by now, and has not given its partitions back yet
            or exists (select from pgq._group_locks() l join pgq.partition p using (partition_id)
                        where l.consumer_group_id = id and p.topic_id = t.topic_id));
    if found then
        raise exception 'members of group % read topic %', quote_literal(group_id), quote_literal(subscribed)
            using errcode = 'PQ041', hint = 'Stop them first: pgq.member_status names them.';
    end if;
    perform pgq._fence_partitions(id, ids);
    with gone as (
        delete from pgq.committed_offset c where c.consumer_group_id = id and c.partition_id = any (ids) returning c.partition_id
    )
    select count(distinct g.partition_id) into result from gone g;
    return result;
end
$$;
