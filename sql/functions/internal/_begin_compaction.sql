-- Become the one session that compacts a partition, and clear away what a killed one has left. The session that
-- writes calls it.
--
-- returns false: another session compacts it, or somebody holds what is to be cleared away
-- locks   the partition's compaction lock, exclusive and the session's, until it ends or pgq._end_compaction
create or replace function pgq._begin_compaction(partition_id int)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    return (pgq._compaction_key(partition_id) = any (pgq._held_keys(28))
            or pg_try_advisory_lock(pgq._compaction_key(partition_id)))
           and pgq._drop_compaction_copies(partition_id);
end
$$;
