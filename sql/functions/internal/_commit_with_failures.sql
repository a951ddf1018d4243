-- Store the group's offsets and move what failed before them, as pgq.commit_offsets and pgq.fail_records; but what an earlier commit
-- has moved already is not moved again: that of an application's transaction whose outcome the client does not know, or one whose answer was
-- lost.
--
-- group_id, topics, partitions, offsets, metadata, member_id, epochs  as pgq.commit_offsets
-- failed_topics, failed_partitions, failed_offsets, due_ats, errors, attempts  as pgq.fail_records
-- replayed  whether the group had committed beyond the record before it was processed again: then it is moved in any case
-- returns moved     how many were moved
--         repeated  how many had been before
create or replace function pgq._commit_with_failures(
    group_id text, topics text[], partitions int[], offsets bigint[], metadata text[], member_id bigint, epochs bigint[],
    failed_topics text[], failed_partitions int[], failed_offsets bigint[], due_ats timestamptz[], errors text[], attempts int[],
    replayed boolean[], out moved int, out repeated int)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    left_over record;
begin
    select array_agg(f.topic order by f.i) as topics, array_agg(f.partition order by f.i) as partitions, array_agg(f."offset" order by f.i) as offsets,
           array_agg(f.due_at order by f.i) as due_ats, array_agg(f.error order by f.i) as errors, array_agg(f.attempt order by f.i) as attempts
      into left_over
      from unnest(failed_topics, failed_partitions, failed_offsets, due_ats, errors, attempts, replayed) with ordinality
           f (topic, partition, "offset", due_at, error, attempt, replayed, i)
      left join pgq.committed_offsets(group_id, topics, partitions) c on c.topic = f.topic and c.partition = f.partition
     where f.replayed or c."offset" is null or c."offset" <= f."offset";
    perform pgq.commit_offsets(group_id, topics, partitions, offsets, metadata, member_id, epochs);
    moved := case when left_over.topics is null then 0
                  else pgq.fail_records(group_id, left_over.topics, left_over.partitions, left_over.offsets, left_over.due_ats,
                                        left_over.errors, left_over.attempts) end;
    repeated := cardinality(failed_topics) - coalesce(cardinality(left_over.topics), 0);
end
$$;
