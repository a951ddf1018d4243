-- Set every sequence that is behind past the last record, and past all else that is known of its partition: what is to
-- be done after tables were copied without their sequences, as logical replication does. Never sets one back.
--
-- returns a row for each sequence that was set: its topic and partition (nulls for a sequence that numbers rows of the
--         catalog), what it would have given next, and what it gives now
-- transaction  call it in one of its own, READ COMMITTED; what it set stays set even if that rolls back
-- locks   only what is behind, waiting 10 s at most: a partition's sequence SHARE ROW EXCLUSIVE, a table of the catalog
--         likewise. Takers of offsets there wait for the transaction's end
-- raises  55P03 when open transactions have taken offsets and do not end: call it again, with the producers stopped
create or replace function pgq.restart_offsets()
returns table (topic text, partition int, sequence text, old_next bigint, new_next bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
#variable_conflict use_column
declare
    behind record;
    least_next bigint;
begin
    for behind in select b.* from pgq._offsets_behind() b order by b.partition_id loop
        -- as pgq._roll_segment: the one ALTER SEQUENCE that waits for open takers of offsets and rewrites nothing
        execute format('alter sequence %s owned by none', behind.sequence);
        select b.next_offset, b.least_offset into old_next, least_next from pgq._offsets_behind(behind.partition_id) b;
        continue when not found;
        topic := behind.topic;
        partition := behind.partition;
        sequence := behind.sequence;
        new_next := greatest(old_next, least_next);
        perform setval(behind.sequence::regclass, new_next - 1);
        return next;
    end loop;
    for behind in select b.* from pgq._identities_behind() b loop
        execute format('lock table %s in share row exclusive mode', behind.relation);
        select b.next_value, b.greatest_value + 1 into old_next, new_next
          from pgq._identities_behind(behind.relation) b where b."column" = behind."column";
        continue when not found;
        topic := null;
        partition := null;
        sequence := behind.sequence;
        perform setval(behind.sequence::regclass, new_next - 1);
        return next;
    end loop;
end
$$;
