-- How many records of each topic wait for their time. Exact up to some 100,000 of them; beyond that an estimate from a sample of their
-- pages, and of the smaller ones of their tables where there are more than 500: so it takes some 100 ms, however many wait.
--
-- returns topics without any are left out
-- locks   ACCESS SHARE on the tables of the delay table, one at a time
create or replace function pgq._delayed_counts()
returns table (topic_id int, records bigint)
language plpgsql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    most_bytes constant numeric := 16777216;
    bucket record;
    some_ids int[];
    some_counts numeric[];
    ids int[] := '{}';
    counts numeric[] := '{}';
begin
    for bucket in
        with sized as (
            select b.bucket, coalesce(pg_relation_size(to_regclass(b.bucket)), 0) as bytes from pgq._delay_buckets() b
        ), ranked as (
            select s.*, row_number() over (order by s.bytes desc, s.bucket) as nth, ceil((count(*) over () - 450) / 50.0)::int as step from sized s
        ), chosen as (
            -- the largest, and of the others one for many
            select r.bucket, r.bytes, case when r.nth <= 450 then 1 else r.step end as stands_for
              from ranked r where r.nth <= 450 or (r.nth - 450) % r.step = 0
        )
        select c.bucket as name, c.stands_for, round(least(100, 100 * most_bytes / sum(c.bytes) over ()), 6) as share
          from chosen c where c.bytes > 0
    loop
        begin
            execute format('select array_agg(d.topic_id), array_agg(d.records) from (select d.topic_id, count(*) as records'
                           ' from %s d tablesample system (%s) repeatable (0) group by d.topic_id) d', bucket.name, bucket.share)
                into some_ids, some_counts;
            ids := ids || some_ids;
            counts := counts || array(select c * bucket.stands_for * 100 / bucket.share from unnest(some_counts) with ordinality u (c, nth) order by nth);
            raise exception 'taken back' using errcode = 'triggered_action_exception';
        exception when triggered_action_exception or undefined_table or internal_error then
            null;  -- the variables stay, the lock does not; or it was dropped meanwhile, and was empty
        end;
    end loop;
    return query
        select u.topic_id, round(sum(u.records))::bigint from unnest(ids, counts) u (topic_id, records) group by u.topic_id;
end
$$;
