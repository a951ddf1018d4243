-- See that what this session has read of a partition survives a crash of the server: records of asynchronous commits, and
-- of commits whose wait was cut short by a crash, can be read before they are flushed.
--
-- watermark  whether to return the high watermark: what lies below it is then safe too, for whoever reads it later
-- returns high_watermark, or null
--         replicas  the topic's min.insync.replicas
--         flushed   up to where the log must be on so many servers, if more than one: see pgq._await_replicas
-- transaction  of its own: up to PostgreSQL 16 it is its commit that flushes (pgq._flush_wal)
create or replace function pgq._flush_reads(
    partition_id int, watermark boolean, out high_watermark bigint, out replicas int, out flushed pg_lsn)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
begin
    select case when watermark then pgq._high_watermark(p.partition_id, p.sequence) end,
           pgq._config_value(p.topic_id, 'min.insync.replicas')::int
      into high_watermark, replicas
      from pgq.partition p where p.partition_id = _flush_reads.partition_id;
    flushed := pg_current_wal_insert_lsn();
    perform pgq._flush_wal();
end
$$;
