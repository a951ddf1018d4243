-- Make the segment that starts at an offset, unless it is there; returns the offset at which it ends. Rows can be
-- inserted into it as soon as this returns.
--
-- partition_id  the partition
-- base          where the last segment ends, as far as the caller can see
-- locks   the partition's table SHARE UPDATE EXCLUSIVE until the transaction ends, if the segment has to be made: other
--         makers of segments wait, appends and reads do not. A segment that is there ROW EXCLUSIVE, as INSERT does:
--         it is visible a moment before its maker has told other sessions that the tree changed, and an INSERT that
--         routes by an old idea of the tree fails; the maker holds the segment until it has told them
-- tables  inserts into pgq.segment; nothing is updated, so that it works in every isolation level, where rows of
--         catalogs may be stale but to_regclass and pg_get_partition_constraintdef are not
create or replace function pgq._make_segment(partition_id int, base bigint)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition;
    parent text;
    leaf text;
    end_offset bigint;
begin
    select p.* into strict part from pgq.partition p where p.partition_id = _make_segment.partition_id;
    parent := format('pgq_log.t%s_p%s', part.topic_id, part.partition);
    leaf := format('%s_s%s', parent, base);
    if to_regclass(leaf) is null then
        execute format('lock table %s in share update exclusive mode', parent);
        if to_regclass(leaf) is null then
            end_offset := base + pgq._segment_width(partition_id, base);
            -- with a check of its bounds it is attached without a scan, which SERIALIZABLE would hold against its maker
            -- autovacuum has nothing to do in what is only inserted and then dropped, but for freezing in due time, and is in
            -- the way of the drop
            execute format('create table %s (like %s, primary key ("offset"), constraint bounds'
                           ' check (partition = %s and "offset" >= %s and "offset" < %s))'
                           ' with (autovacuum_vacuum_insert_threshold = -1, toast.autovacuum_vacuum_insert_threshold = -1)',
                           leaf, parent, part.partition, base, end_offset);
            execute format('create index on %s using brin ("timestamp") with (autosummarize = on)', leaf);
            execute format('alter table %s attach partition %s for values from (%s) to (%s)', parent, leaf, base, end_offset);
            execute format('alter table %s drop constraint bounds', leaf);
            insert into pgq.segment (partition_id, base_offset, end_offset) values (partition_id, base, end_offset);
            return end_offset;
        end if;
    end if;
    execute format('lock table %s in row exclusive mode', leaf);
    perform pgq._renew_tree(part.topic_id, part.partition, base);
    return substring(pg_get_partition_constraintdef(leaf::regclass) from $re$"offset" < '(\d+)'$re$)::bigint;
end
$$;
