-- Keep these partitions, and give back all others that this session holds, for other members to claim. Commit before.
--
-- That includes those it does not know of, since a call was interrupted, and those of topics that were deleted.
--
-- topics, partitions  parallel arrays; what is not held is not claimed by this
-- transaction  at once, not with the caller's commit; other members are woken by that
create or replace function pgq.keep_partitions(member_id bigint, topics text[], partitions int[])
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := (select m.consumer_group_id from pgq.group_member m where m.member_id = keep_partitions.member_id);
    kept bigint[];
begin
    if pgq._member_key(member_id) = any (pgq._held_keys(25)) is not true then
        return;  -- it is another session's member
    end if;
    kept := array(
        select pgq._claim_key(id, p.partition_id)
          from unnest(topics, partitions) w (topic, partition)
          join pgq.topic t on t.name = w.topic
          join pgq.partition p on p.topic_id = t.topic_id and p.partition = w.partition);
    perform pg_advisory_unlock(k.key) from unnest(pgq._held_keys(26)) k (key) where k.key <> all (kept);
    if id is not null then
        perform pgq._wake_group(id);
    end if;
end
$$;
