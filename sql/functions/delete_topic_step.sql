-- Do a part of deleting a topic: call it, each time in a transaction of its own, until it returns 0.
-- Called again it goes on where an earlier caller stopped. From the first call on the topic cannot be used.
--
-- name    the topic, whatever its state
-- returns how many segments are still to be dropped, at least 1 while anything is left; 0: the topic is gone
-- transaction  joins the caller's; drops up to 50 segments or 25 partitions, so takes some 350 locks
-- locks   the topic's row; ACCESS EXCLUSIVE on what it drops, waiting 1 s at most
-- raises  PQ001 (UnknownTopicError), 55P03 when somebody still uses the topic: call again
create or replace function pgq.delete_topic_step(name text)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
declare
    ready boolean := exists (select from pgq.topic t where t.name = delete_topic_step.name and t.state <> 'deleting');
    id int := pgq._begin_delete(name);
begin
    if ready then
        -- in a transaction of its own, so that nobody new comes while the rest waits for those who are there
        return greatest(1, (select count(*) from pgq.segment s join pgq.partition p using (partition_id) where p.topic_id = id));
    end if;
    return pgq._drop_step(id);
end
$$;
