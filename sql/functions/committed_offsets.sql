-- The offsets that a group committed: all of them, or those of the partitions named.
--
-- topics, partitions  parallel arrays, or null for every partition
-- returns a row for each partition that has one
create or replace function pgq.committed_offsets(group_id text, topics text[] default null, partitions int[] default null)
returns table (topic text, partition int, "offset" bigint, metadata text, committed_at timestamptz)
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select distinct on (t.name, p.partition) t.name, p.partition, c."offset", c.metadata, c.committed_at
      from pgq.consumer_group g
      join pgq.committed_offset c using (consumer_group_id)
      join pgq.partition p using (partition_id)
      join pgq.topic t using (topic_id)
     where g.name = committed_offsets.group_id
       and (committed_offsets.topics is null
            or exists (select from unnest(committed_offsets.topics, committed_offsets.partitions) w (topic, partition)
                        where w.topic = t.name and w.partition = p.partition))
     order by t.name, p.partition, c.serial desc
$$;
