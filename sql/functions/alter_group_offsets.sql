-- Store offsets for a group that has no members, whatever the log holds; pgq.reset_offsets looks at that. The group is made
-- if it does not exist.
--
-- topics, partitions, offsets, metadata  parallel arrays; metadata may be null, or up to 4,096 bytes an element
-- transaction  joins the caller's
-- locks   the group's row, the owners' rows
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ019 (InvalidGroupIdError), PQ020 (InvalidCommitOffsetError),
--         PQ039 (NonEmptyGroupError)
-- source  Kafka's Admin.alterConsumerGroupOffsets
create or replace function pgq.alter_group_offsets(
    group_id text, topics text[], partitions int[], offsets bigint[], metadata text[] default null)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int;
    ids int[] := '{}';
begin
    if topics is null or cardinality(topics) is distinct from cardinality(partitions)
       or cardinality(topics) is distinct from cardinality(offsets) or cardinality(metadata) <> cardinality(topics) then
        raise exception 'alter_group_offsets: arrays of different lengths'
            using errcode = 'PQ020', hint = 'Give a partition and an offset for each topic.';
    end if;
    for i in 1 .. cardinality(topics) loop
        if offsets[i] is null or offsets[i] < 0 or octet_length(metadata[i]) > 4096 then
            raise exception 'bad offset % for partition % of topic %', coalesce(offsets[i]::text, 'NULL'), partitions[i], quote_literal(topics[i])
                using errcode = 'PQ020', hint = 'An offset is 0 or more; its metadata has up to 4096 bytes.';
        end if;
        ids := ids || (pgq._partition(topics[i], partitions[i])).partition_id;
        if ids[i] = any (ids[: i - 1]) then
            raise exception 'partition % of topic % stands there twice', partitions[i], quote_literal(topics[i])
                using errcode = 'PQ020', hint = 'Give one offset for each partition.';
        end if;
    end loop;
    perform pgq._group(group_id);
    id := pgq._lock_empty_group(group_id);
    perform pgq._store_offsets(id, ids, offsets, metadata);
end
$$;
