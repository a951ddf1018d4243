-- Delete a topic with its records and the offsets that groups committed for it.
--
-- name    the topic, whatever its state
-- transaction  joins the caller's; refuses a topic of more than 50 partitions or 500 segments: pgq.delete_topic_step
-- locks   the topic's tables ACCESS EXCLUSIVE: waits for, and then refuses, everybody who uses the topic
-- raises  PQ001 (UnknownTopicError), PQ005 (InvalidPartitionsError)
create or replace function pgq.delete_topic(name text)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := pgq._begin_delete(name);
    partitions bigint := (select count(*) from pgq.partition p where p.topic_id = id);
    segments bigint := (select count(*) from pgq.segment s join pgq.partition p using (partition_id) where p.topic_id = id);
begin
    if partitions > 50 or segments > 500 then
        raise exception 'topic % has % partitions with % segments', quote_literal(name), partitions, segments
            using errcode = 'PQ005',
                  hint = 'To drop all in one transaction would use up the lock table that all sessions share: call'
                         ' pgq.delete_topic_step until it returns 0, or use `pgq topic delete` or Admin.delete_topic.';
    end if;
    while pgq._drop_step(id) > 0 loop
        null;
    end loop;
end
$$;
