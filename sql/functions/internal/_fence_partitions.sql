-- See that nobody who held a partition of a group commits for it any more: raise its epoch. A transaction that has
-- committed is waited for. The rows stay, since an epoch never goes back.
--
-- locks   the owners' rows
create or replace function pgq._fence_partitions(consumer_group_id int, partition_ids int[])
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    perform from pgq.partition_owner o
      where o.consumer_group_id = _fence_partitions.consumer_group_id and o.partition_id = any (partition_ids)
      order by o.partition_id for update;
    update pgq.partition_owner o set epoch = o.epoch + 1, member_id = null
     where o.consumer_group_id = _fence_partitions.consumer_group_id and o.partition_id = any (partition_ids);
end
$$;
