-- Make the table into which what remains of some segments is copied; returns its name within schema pgq_log.
--
-- base, end_offset  where the first of them begins and the last one ends
-- transaction  the one that fills it, by COPY with FREEZE: then every snapshot shows its records, older ones, too. A
--              statement takes its snapshot before it waits for the swap of the tables, and would find an empty
--              segment otherwise
-- locks   the first segment ACCESS SHARE, not the tables above it, for as long as the copy takes: LIKE keeps it
create or replace function pgq._create_compaction_copy(partition_id int, base bigint, end_offset bigint)
returns text
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition;
    leaf text;
begin
    select p.* into strict part from pgq.partition p where p.partition_id = _create_compaction_copy.partition_id;
    leaf := pgq._segment_name(part.topic_id, part.partition, base);
    execute format('create table %s_compacting (like %s, constraint bounds'
                   ' check (partition = %s and "offset" >= %s and "offset" < %s))'
                   ' with (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1)',
                   leaf, leaf, part.partition, base, end_offset);
    return split_part(leaf, '.', 2) || '_compacting';
end
$$;
