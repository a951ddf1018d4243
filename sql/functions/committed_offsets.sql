-- The offsets that a group committed: all of them, or those of the partitions named.
--
-- topics, partitions  parallel arrays, or null for every partition
-- returns a row for each partition that has one
create or replace function pgq.committed_offsets(group_id text, topics text[] default null, partitions int[] default null)
returns table (topic text, partition int, "offset" bigint, metadata text, committed_at timestamptz)
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select t.name, p.partition, c."offset", c.metadata, c.committed_at
      from pgq.consumer_group g
      cross join pgq.partition p
      join pgq.topic t using (topic_id)
      cross join lateral (
            -- one look into the index a partition, however many older rows there are
            select c.* from pgq.committed_offset c
             where c.consumer_group_id = g.consumer_group_id and c.partition_id = p.partition_id
             order by c.serial desc limit 1) c
     where g.name = committed_offsets.group_id
       and (committed_offsets.topics is null
            or (t.name, p.partition) in (select * from unnest(committed_offsets.topics, committed_offsets.partitions)))
     order by t.name, p.partition
$$;
