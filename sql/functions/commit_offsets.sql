-- Store the offsets up to which a group has processed partitions: the next offset to process.
--
-- group_id    1 to 249 characters
-- topics, partitions, offsets, metadata  parallel arrays; metadata may be null, or up to 4,096 bytes an element
-- member_id, epochs  of the member who commits: those with which it claimed the partitions (pgq.claim_partitions). Null for
--             somebody who is no member, and may commit where no member holds the partition
-- transaction  joins the caller's: the group's progress and its own writes become visible together, or not at all. The
--             partitions change owners only after it; so the server ends the session if a member's transaction is idle for longer
--             than its session timeout from here on
-- tables  inserts into pgq.committed_offset; the newest row counts, older ones are removed now and then
-- locks   the owners' rows, shared; the claim, shared, where no member commits
-- raises  PQ001 (UnknownTopicError), PQ002 (UnknownPartitionError), PQ019 (InvalidGroupIdError), PQ020 (InvalidCommitOffsetError),
--         PQ035 (UnknownMemberIdError), PQ036 (CommitFailedError): a partition has another owner by now, or the claim
--         was made with a leader before a failover; nothing is stored
create or replace function pgq.commit_offsets(
    group_id text, topics text[], partitions int[], offsets bigint[], metadata text[] default null, member_id bigint default null,
    epochs bigint[] default null)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := (select g.consumer_group_id from pgq.consumer_group g where g.name = group_id);
    part pgq.partition;
    last_serial bigint;
    lost text;
    timeout interval := current_setting('idle_in_transaction_session_timeout')::interval;
    most_ms int;
    leader int;
begin
    if cardinality(topics) is distinct from cardinality(partitions) or cardinality(topics) is distinct from cardinality(offsets)
       or cardinality(metadata) <> cardinality(topics) or (member_id is null) <> (epochs is null)
       or cardinality(epochs) <> cardinality(topics) then
        raise exception 'commit_offsets: arrays of different lengths'
            using errcode = 'PQ020', hint = 'Give a partition and an offset for each topic; with a member_id, an epoch as well.';
    end if;
    if member_id is null and id is null then
        id := pgq._group(group_id);
    end if;
    if member_id is not null then
        leader := pgq._leader_epoch();
        -- from here on nobody else can claim the partitions before the transaction ends: not for longer than a session may be silent
        select m.session_timeout_ms into most_ms from pgq.group_member m where m.member_id = commit_offsets.member_id;
        if timeout = interval '0' or timeout > most_ms * interval '1 millisecond' then
            perform set_config('idle_in_transaction_session_timeout', most_ms::text, true);
        end if;
    end if;
    for i in 1 .. coalesce(cardinality(topics), 0) loop
        if offsets[i] is null or offsets[i] < 0 or octet_length(metadata[i]) > 4096 then
            raise exception 'bad commit of offset % for partition % of topic %', coalesce(offsets[i]::text, 'NULL'), partitions[i], quote_literal(topics[i])
                using errcode = 'PQ020', hint = 'An offset is 0 or more; its metadata has up to 4096 bytes.';
        end if;
        part := pgq._partition(topics[i], partitions[i]);
        if epochs is null then
            -- held to the end of the transaction, so that nobody claims it meanwhile and starts from the offset before
            if not pg_try_advisory_xact_lock_shared(pgq._claim_key(id, part.partition_id)) then
                raise exception 'a member of group % holds partition % of topic %', quote_literal(group_id), partitions[i], quote_literal(topics[i])
                    using errcode = 'PQ035', hint = 'Commit as that member, or stop the group''s members first.';
            end if;
        else
            -- shared until the commit: whoever claims the partition next has to see what this stores
            perform from pgq.partition_owner o
              where o.consumer_group_id = id and o.partition_id = part.partition_id
                and o.epoch = epochs[i] and o.member_id = commit_offsets.member_id and o.leader_epoch = leader for share;
            if not found then
                lost := concat_ws(', ', lost, concat(topics[i], '-', partitions[i]));
                continue;
            end if;
        end if;
        insert into pgq.committed_offset as c (consumer_group_id, partition_id, "offset", metadata, epoch)
        values (id, part.partition_id, offsets[i], coalesce(metadata[i], ''), epochs[i])
        returning c.serial into last_serial;
        -- one in 64, by a hash: serials go to a group's partitions in turn, so that by the number itself some never had theirs
        if hashint8(last_serial) & 63 = 0 then
            -- back to the row that did this before, and no further: what lies below it may be gone and still be in the
            -- index, as long as somebody holds an old snapshot
            delete from pgq.committed_offset c
             where c.consumer_group_id = id and c.partition_id = part.partition_id and c.serial < last_serial
               and c.serial >= coalesce((
                       select b.serial from pgq.committed_offset b
                        where b.consumer_group_id = id and b.partition_id = part.partition_id and b.serial < last_serial
                          and hashint8(b.serial) & 63 = 0 order by b.serial desc limit 1), 0);
        end if;
    end loop;
    if lost is not null then
        raise exception 'not committed: % of group % changed hands', lost, quote_literal(group_id)
            using errcode = 'PQ036', hint = 'Go on with what pgq.claim_partitions gave last; their new owners read on from the offsets committed before.';
    end if;
end
$$;
