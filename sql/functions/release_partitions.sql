-- Give partitions back, for other members to claim; commit before. What is not held is left alone.
--
-- transaction  at once, not with the caller's commit; other members are woken by that
create or replace function pgq.release_partitions(member_id bigint, topics text[], partitions int[])
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := (select m.consumer_group_id from pgq.group_member m where m.member_id = release_partitions.member_id);
    held bigint[] := pgq._held_keys(26);
begin
    -- to unlock what is not held would warn
    perform pg_advisory_unlock(pgq._claim_key(id, p.partition_id))
       from unnest(topics, partitions) w (topic, partition)
       join pgq.topic t on t.name = w.topic
       join pgq.partition p on p.topic_id = t.topic_id and p.partition = w.partition
      where pgq._claim_key(id, p.partition_id) = any (held);
    if id is not null then
        perform pgq._wake_group(id);
    end if;
end
$$;
