-- Append delayed records to their topics and remove them from the delay table.
--
-- buckets   tables of delayed records
-- nths, due_ats, serials, topic_ids, partitions  parallel arrays: the records, locked by the caller, in the order in which they are to
--           be appended; nths says in which of the tables each stands
-- returns records: how many are gone, those of deleted topics among them; all_taken: false if there were more than 100 partitions, and
--         those of the others have stayed
-- transaction, locks  as pgq.begin_append
create or replace function pgq._deliver(
    buckets text[], nths int[], due_ats timestamptz[], serials bigint[], topic_ids int[], partitions int[],
    out records int, out all_taken boolean)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    chosen record;
    ready record;
    taken bigint[];
    topic int;
    bucket record;
    n int;
begin
    records := 0;
    -- the partitions, in the order in which they first occur
    select array_agg(c.topic_id) as topic_ids, array_agg(c.partition) as partitions, array_agg(c.records) as counts, max(c.of) as of into chosen
      from (select r.topic_id, r.partition, count(*)::int as records, count(*) over () as of
              from unnest(topic_ids, partitions) with ordinality r (topic_id, partition, i)
              join pgq.topic t on t.topic_id = r.topic_id and t.state = 'ready'
              join pgq.partition p on p.topic_id = r.topic_id and p.partition = r.partition
             group by r.topic_id, r.partition order by min(r.i) limit 100) c;
    all_taken := coalesce(chosen.of, 0) <= 100;
    -- offsets first, in a statement of their own; both sides in the same order, so that they need no join to meet
    select array_agg(o."offset" order by a.topic_id, a.partition, o.nth) into taken
      from pgq.begin_append(chosen.topic_ids, chosen.partitions, chosen.counts) a, unnest(a.offsets) with ordinality o ("offset", nth)
     where chosen.topic_ids is not null;
    select array_agg(r.due_at order by r.topic_id, r.partition, r.i) as due_ats, array_agg(r.serial order by r.topic_id, r.partition, r.i) as serials,
           array_agg(r.topic_id order by r.topic_id, r.partition, r.i) as topic_ids, array_agg(r.nth order by r.topic_id, r.partition, r.i) as nths
      into ready
      from unnest(nths, due_ats, serials, topic_ids, partitions) with ordinality r (nth, due_at, serial, topic_id, partition, i)
      join unnest(chosen.topic_ids, chosen.partitions) c (topic_id, partition) using (topic_id, partition);
    for topic in select distinct t from unnest(chosen.topic_ids) t loop
        -- it may be parked itself: then its PARK lock was no hindrance to pgq.begin_append, and others rely on that lock
        perform pgq._wake(topic);
        execute format($move$
            with %s
            insert into pgq_log.t%s (partition, "offset", "timestamp", key, value, header_keys, header_values, codec)
            select m.partition, m."offset", date_trunc('milliseconds', coalesce(m."timestamp", clock_timestamp())),
                   m.key, m.value, m.header_keys, m.header_values, m.codec
              from (%s) m order by m.partition, m."offset"
            $move$,
            (select string_agg(format($moved$
                        moved_%s as (
                            delete from %s d using unnest($2, $3, $4, $5, $6) r (nth, due_at, serial, topic_id, "offset")
                             where r.nth = %s and r.topic_id = $1 and d.due_at = r.due_at and d.serial = r.serial
                            returning d.*, r."offset")
                        $moved$, b.nth, b.bucket, b.nth), ', ') from unnest(buckets) with ordinality b (bucket, nth)),
            topic,
            (select string_agg(format('select * from moved_%s', b.nth), ' union all ') from unnest(buckets) with ordinality b (bucket, nth)))
            using topic, ready.nths, ready.due_ats, ready.serials, ready.topic_ids, taken;
        get diagnostics n = row_count;
        records := records + n;
    end loop;
    -- whose topic was deleted, or is being
    for bucket in select * from unnest(buckets) with ordinality b (name, nth) loop
        execute format($gone$
            delete from %s d using unnest($1, $2, $3, $4, $5) r (nth, due_at, serial, topic_id, partition)
             where r.nth = $6 and d.due_at = r.due_at and d.serial = r.serial
               and not exists (select from pgq.topic t join pgq.partition p using (topic_id)
                                where t.topic_id = r.topic_id and t.state = 'ready' and p.partition = r.partition)
            $gone$, bucket.name) using nths, due_ats, serials, topic_ids, partitions, bucket.nth;
        get diagnostics n = row_count;
        records := records + n;
    end loop;
end
$$;
