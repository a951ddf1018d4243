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
    part int;
begin
    for part in
        select p.partition_id from unnest(topics, partitions) w (topic, partition)
          join pgq.topic t on t.name = w.topic join pgq.partition p on p.topic_id = t.topic_id and p.partition = w.partition
    loop
        if exists (select from pg_locks l where l.locktype = 'advisory' and l.pid = pg_backend_pid()
                     and ((l.classid::bigint << 32) | l.objid::bigint) = pgq._claim_key(id, part)) then
            perform pg_advisory_unlock(pgq._claim_key(id, part));
        end if;
    end loop;
    if id is not null then
        perform pgq._wake_group(id);
    end if;
end
$$;
