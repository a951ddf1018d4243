-- Delete a topic with its records and the offsets that groups committed for it.
--
-- name    the topic
-- transaction  joins the caller's
-- locks   the topic's tables ACCESS EXCLUSIVE: waits for, and then refuses, everybody who uses the topic
-- raises  PQ001 (UnknownTopicError)
create or replace function pgq.delete_topic(name text)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := pgq._topic_id(name);
    part record;
begin
    perform from pgq.topic t where t.topic_id = id for update;
    perform pgq._topic_id(name);  -- of two that delete, one waited
    -- sequences first, as appends lock them: waits for those that have taken offsets, and rewrites nothing
    for part in select p.sequence from pgq.partition p where p.topic_id = id order by p.partition_id loop
        execute format('alter sequence %s owned by none', part.sequence);
    end loop;
    execute format('drop procedure %s', pgq._produce_procedure(name));
    execute format('drop table pgq_log.t%s', id);
    for part in select p.sequence, p.partition_id from pgq.partition p where p.topic_id = id loop
        execute format('drop sequence %s', part.sequence);
    end loop;
    delete from pgq.committed_offset c using pgq.partition p where p.topic_id = id and c.partition_id = p.partition_id;
    delete from pgq.skipped_range r using pgq.partition p where p.topic_id = id and r.partition_id = p.partition_id;
    delete from pgq.segment s using pgq.partition p where p.topic_id = id and s.partition_id = p.partition_id;
    delete from pgq.partition p where p.topic_id = id;
    delete from pgq.topic t where t.topic_id = id;
end
$$;
