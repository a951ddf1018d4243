-- Append delayed records that are due, those due first before the others. The service calls it, and consumers do; call it now
-- and then where there are neither.
--
-- most     how many at most, from 1 on; and 16 MiB at most, to 100 partitions, out of some 50 tables
-- returns delivered    how many
--         next_due_ms  how long until it is worth while to call again: 0 if more is due. Null: nothing waits
-- transaction  short, and its own, READ COMMITTED: a record is moved by one transaction, so neither lost nor appended twice
-- locks   DELIVERY, exclusive: who does not get it leaves the work to the holder; then what pgq.begin_append takes. Records that
--         somebody cancels are left for the next time. Tables of past hours are dropped, if nobody uses them
-- raises  PQ009 (IsolationLevelError), PQ010 (NotLeaderError), PQ023 (InvalidRequestError)
create or replace function pgq.deliver_due(most int default 1000, out delivered int, out next_due_ms bigint)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
-- by the primary key, whatever the planner knows of tables that have just been made
set enable_seqscan = off
set enable_bitmapscan = off
set enable_mergejoin = off
set enable_sort = off
as $$
#variable_conflict use_column
declare
    until timestamptz;
    last pgq.delivery;
    open_keys bigint[];
    ended_from timestamptz;
    search_from timestamptz;
    search_serial bigint;
    hour record;
    tables int := 0;
    last_due timestamptz;
    last_serial bigint;
    due record;
    done record;
    bytes_left bigint := 16777216;
    first record;
begin
    perform pgq._check_leader();
    if most is null or most < 1 then
        raise exception 'cannot deliver % records', coalesce(most::text, 'NULL')
            using errcode = 'PQ023', hint = 'most must be at least 1.';
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'cannot deliver in a % transaction', upper(current_setting('transaction_isolation'))
            using errcode = 'PQ009',
                  hint = 'Its snapshot may be older than what others have just sent, which would be passed over: use READ COMMITTED.';
    end if;
    delivered := 0;
    if not exists (select from pgq._delay_buckets()) then
        return;
    end if;
    if not pg_try_advisory_xact_lock((29::bigint << 58) | (1::bigint << 57) | 1) then
        next_due_ms := 250;
        return;
    end if;
    -- in this order, each with a later snapshot: what a transaction has sent that is not in open_keys is seen below, or due later
    until := date_trunc('milliseconds', clock_timestamp());
    open_keys := array(select t.key from pgq._delay_times() t where t."at" <= until order by 1);
    select d.* into last from pgq.delivery d order by d.delivery_id desc limit 1;
    -- what transactions have sent that have ended since; and what was sent since the clock was set back
    ended_from := (select min(to_timestamp(((k >> 15) & 4398046511103) / 1000.0)) from unnest(last.open) k where k <> all (open_keys));
    search_from := least(case when last.search_from <= until then last.search_from else 'epoch' end, ended_from);
    search_serial := case when search_from < last.search_from or ended_from <= last.search_from then 0 else last.search_serial end;
    -- there may be several tables of one hour
    for hour in select array_agg(b.bucket) as buckets from pgq._delay_buckets(search_from, until) b group by b.hour_ends_at order by b.hour_ends_at loop
        exit when tables >= 50;
        tables := tables + cardinality(hour.buckets);
        begin
            last_due := null;
            last_serial := null;
            if cardinality(hour.buckets) > 1 then
                -- how far to go, so that no more is locked than is taken
                execute format('select u.due_at, u.serial from (%s) u order by u.due_at, u.serial offset $4 - 1 limit 1',
                               (select string_agg(format('(select d.due_at, d.serial from %s d where (d.due_at, d.serial) >= ($1, $2) and d.due_at <= $3'
                                                         ' order by d.due_at, d.serial limit $4)', b), ' union all ')
                                  from unnest(hour.buckets) b))
                    into last_due, last_serial using search_from, search_serial, until, most - delivered;
            end if;
            for attempt in 1 .. 2 loop
                execute format($due$
                    select array_agg(r.due_at order by r.due_at, r.serial) as due_ats, array_agg(r.serial order by r.due_at, r.serial) as serials,
                           array_agg(r.topic_id order by r.due_at, r.serial) as topic_ids, array_agg(r.partition order by r.due_at, r.serial) as partitions,
                           array_agg(r.nth order by r.due_at, r.serial) as nths,
                           sum(r.bytes) as bytes, count(*) as records, coalesce(bool_or(r.is_last), false) as is_full
                      from (select d.*, sum(d.bytes) over w - d.bytes as bytes_before, row_number() over w as number,
                                   row_number() over w = $5 or sum(d.bytes) over w >= $6 as is_last
                              from (%s) d
                            window w as (order by d.due_at, d.serial)) r
                     where r.bytes_before < $6 and r.number <= $5
                    $due$, (select string_agg(format($bucket$
                                select * from (
                                    select d.due_at, d.serial, d.topic_id, d.partition, %s as nth,
                                           100 + coalesce(octet_length(d.key), 0)::bigint + coalesce(octet_length(d.value), 0)
                                               + coalesce(pg_column_size(d.header_values), 0) as bytes
                                      from %s d
                                     where (d.due_at, d.serial) >= ($1, $2) and (d.due_at, d.serial) <= ($3, $4)
                                     order by d.due_at, d.serial limit $5 for update skip locked) d
                                $bucket$, b.nth, b.bucket), ' union all ')
                              from unnest(hour.buckets) with ordinality b (bucket, nth)))
                    into due using search_from, search_serial, coalesce(last_due, until), coalesce(last_serial, 9223372036854775807),
                                   most - delivered, bytes_left;
                exit when due.records > 0 or last_due is null;
                last_due := null;  -- all that far are being cancelled: go further
                last_serial := null;
            end loop;
            continue when due.records = 0;
            select d.records, d.all_taken into done
              from pgq._deliver(hour.buckets, due.nths, due.due_ats, due.serials, due.topic_ids, due.partitions) d;
            delivered := delivered + done.records;
            bytes_left := bytes_left - due.bytes;
            exit when due.is_full or not done.all_taken or last_due is not null;
        exception when undefined_table or internal_error or sqlstate 'PQ002' then
            raise warning 'pgq.deliver_due: %', sqlerrm;  -- a topic was deleted meanwhile: seen at the next call
            exit;
        end;
    end loop;
    select f.due_at, f.serial into first from pgq._first_delayed(search_from, search_serial) f;
    -- what is sent from now on is due at until or later
    if first.due_at is null or first.due_at >= until then
        search_from := until;
        search_serial := 0;
    else
        search_from := first.due_at;
        search_serial := first.serial;
    end if;
    if delivered > 0 or open_keys <> last.open or search_from < last.search_from or last.search_from < until - interval '1 minute' then
        insert into pgq.delivery values (last.delivery_id + 1, search_from, search_serial, open_keys);
        delete from pgq.delivery d where d.delivery_id <= last.delivery_id;
        perform pgq._drop_delay_buckets(least(search_from, (select min(t."at") from pgq._delay_times() t)));
    end if;
    if cardinality(open_keys) > 0 then
        next_due_ms := 500;  -- one may end any time, and what it has sent may be due
    end if;
    next_due_ms := least(next_due_ms, case when first.due_at is not null
                                           then greatest(0, ceil(extract(epoch from first.due_at - clock_timestamp()) * 1000))::bigint end);
end
$$;
