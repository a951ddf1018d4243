-- Delete a consumer group: its committed offsets, the epochs of its partitions, what is left of its members. Whoever was
-- one of them commits nothing for it any more, nor for a group of the same name made later.
--
-- transaction  joins the caller's. Open ones that have committed offsets for the group are waited for
-- locks   the group's row
-- raises  PQ039 (NonEmptyGroupError), PQ040 (GroupIdNotFoundError)
-- source  Kafka's DeleteGroups
create or replace function pgq.delete_group(group_id text)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := pgq._lock_empty_group(group_id);
begin
    -- an open transaction that has committed offsets holds the key: what it has stored goes as well, so it has to be seen
    perform from pgq.consumer_group g where g.consumer_group_id = id for update;
    delete from pgq.committed_offset c where c.consumer_group_id = id;
    delete from pgq.consumer_group g where g.consumer_group_id = id;
end
$$;
