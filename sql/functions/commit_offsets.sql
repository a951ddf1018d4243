-- Store the offsets up to which a group has processed partitions: the next offset to process.
--
-- group_id    1 to 249 characters
-- topics, partitions, offsets, metadata  parallel arrays; metadata may be null, or up to 4,096 bytes an element
-- transaction  joins the caller's: the group's progress and its own writes become visible together, or not at all
-- tables  inserts into pgq.committed_offset; the newest row counts, older ones are removed now and then
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ019 (InvalidGroupIdError), PQ020 (InvalidCommitOffsetError)
create or replace function pgq.commit_offsets(group_id text, topics text[], partitions int[], offsets bigint[], metadata text[] default null)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := (select g.consumer_group_id from pgq.consumer_group g where g.name = group_id);
    part pgq.partition;
    last_serial bigint;
begin
    if coalesce(group_id, '') = '' or length(group_id) > 249 then
        raise exception 'illegal group id %', coalesce(quote_literal(left(group_id, 260)), 'NULL')
            using errcode = 'PQ019', hint = 'Use 1 to 249 characters.';
    end if;
    if cardinality(topics) is distinct from cardinality(partitions) or cardinality(topics) is distinct from cardinality(offsets)
       or cardinality(metadata) <> cardinality(topics) then
        raise exception 'commit_offsets: arrays of different lengths'
            using errcode = 'PQ020', hint = 'Give a partition and an offset for each topic.';
    end if;
    if id is null then
        insert into pgq.consumer_group (name) values (group_id) on conflict do nothing;
        select g.consumer_group_id into strict id from pgq.consumer_group g where g.name = group_id;
    end if;
    for i in 1 .. coalesce(cardinality(topics), 0) loop
        if offsets[i] is null or offsets[i] < 0 or octet_length(metadata[i]) > 4096 then
            raise exception 'bad commit of offset % for partition % of topic %', coalesce(offsets[i]::text, 'NULL'), partitions[i], quote_literal(topics[i])
                using errcode = 'PQ020', hint = 'An offset is 0 or more; its metadata has up to 4096 bytes.';
        end if;
        part := pgq._partition(topics[i], partitions[i]);
        insert into pgq.committed_offset as c (consumer_group_id, partition_id, "offset", metadata)
        values (id, part.partition_id, offsets[i], coalesce(metadata[i], ''))
        returning c.serial into last_serial;
        if last_serial % 64 = 0 then
            delete from pgq.committed_offset c
             where c.consumer_group_id = id and c.partition_id = part.partition_id and c.serial < last_serial;
        end if;
    end loop;
end
$$;
