-- What the clients do by pgq._flush_reads and pgq._await_replicas, in one call, for pgq.fetch: see that what was read so far
-- survives, and return whether it does.
--
-- transaction  up to PostgreSQL 16 it is its commit that flushes; standbys are waited for a moment
create or replace function pgq._reads_are_safe(partition_id int)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    reads record := pgq._flush_reads(partition_id, false);
begin
    return reads.replicas is null or reads.replicas < 2 or pgq._await_replicas(reads.flushed, reads.replicas, 1000);
end
$$;
