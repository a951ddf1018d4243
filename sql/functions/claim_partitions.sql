-- Claim partitions for a member: as far as nobody else of its group holds them, they are its own until it releases them or
-- its session ends.
--
-- generation  what the claim rests on; nothing is claimed if the group has another by now
-- topics, partitions  parallel arrays. What this session holds already, without knowing it since it was interrupted, counts
--         as free
-- returns a row for each that was claimed: its epoch, to be given with commits; the committed offset and its metadata, or null;
--         added: the group read the topic before it was given this partition, so that "latest" would skip records. Try the
--         others again soon: their owner may be finishing, or a transaction of it that commits
-- transaction  of its own
-- locks   the claim, the session's; the owner's row. Never waits
-- raises  PQ009 (IsolationLevelError): an older snapshot may not have the
--         commit of the owner before
create or replace function pgq.claim_partitions(member_id bigint, generation bigint, topics text[], partitions int[])
returns table (topic text, partition int, epoch bigint, "offset" bigint, metadata text, added boolean)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    id int;
    part pgq.partition;
    key bigint;
    held bigint[];
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'cannot claim partitions in a % transaction', upper(current_setting('transaction_isolation'))
            using errcode = 'PQ009', hint = 'Its snapshot may be older than what was committed last: use READ COMMITTED.';
    end if;
    if pgq._member_key(member_id) = any (pgq._held_keys(25)) is not true then
        return;  -- it is another session's member
    end if;
    select g.consumer_group_id into id from pgq.group_member m join pgq.consumer_group g using (consumer_group_id)
     where m.member_id = claim_partitions.member_id and g.generation = claim_partitions.generation;
    if not found then
        return;
    end if;
    -- a session's locks count: what is taken twice would have to be released twice
    held := pgq._held_keys(26);
    for topic, partition in select * from unnest(topics, partitions) loop
        select p.* into part from pgq.topic t join pgq.partition p using (topic_id)
         where t.name = claim_partitions.topic and p.partition = claim_partitions.partition and p.partition < t.partitions
           and t.state = 'ready';
        continue when not found;  -- it was deleted; the generation is about to change
        key := pgq._claim_key(id, part.partition_id);
        continue when key <> all (held) and not pg_try_advisory_lock(key);
        insert into pgq.partition_owner (consumer_group_id, partition_id, epoch) values (id, part.partition_id, 0) on conflict do nothing;
        -- a commit of the owner before, in a transaction that is still open, has it locked
        perform from pgq.partition_owner o
          where o.consumer_group_id = id and o.partition_id = part.partition_id for update skip locked;
        if not found then
            perform pg_advisory_unlock(key);
            continue;
        end if;
        update pgq.partition_owner o
           set epoch = o.epoch + 1, member_id = claim_partitions.member_id, leader_epoch = pgq._leader_epoch(),
               claimed_at = clock_timestamp()
         where o.consumer_group_id = id and o.partition_id = part.partition_id
        returning o.epoch into epoch;
        select c."offset", c.metadata into "offset", metadata from pgq.committed_offset c
         where c.consumer_group_id = id and c.partition_id = part.partition_id order by c.serial desc limit 1;
        added := exists (
            select from pgq.partition_owner o join pgq.partition p using (partition_id)
             where o.consumer_group_id = id and p.topic_id = part.topic_id and o.first_claimed_at < (
                   select min(s.created_at) from pgq.segment s where s.partition_id = part.partition_id));
        return next;
    end loop;
end
$$;
