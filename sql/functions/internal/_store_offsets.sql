-- Store the offsets of a group without members, instead of all that was committed for these partitions before.
--
-- partition_ids, offsets, metadata  parallel arrays; metadata may be null
-- locks   the owners' rows. The caller holds the group's row
-- tables  deletes from and inserts into pgq.committed_offset
create or replace function pgq._store_offsets(consumer_group_id int, partition_ids int[], offsets bigint[], metadata text[] default null)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    perform pgq._fence_partitions(consumer_group_id, partition_ids);
    delete from pgq.committed_offset c
     where c.consumer_group_id = _store_offsets.consumer_group_id and c.partition_id = any (partition_ids);
    insert into pgq.committed_offset (consumer_group_id, partition_id, "offset", metadata)
    select _store_offsets.consumer_group_id, n.partition_id, n."offset", coalesce(n.metadata, '')
      from unnest(partition_ids, offsets, metadata) n (partition_id, "offset", metadata);
end
$$;
