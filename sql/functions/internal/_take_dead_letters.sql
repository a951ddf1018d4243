-- The dead letters that fit, oldest first, and if they are to be settled in a way that nobody else does it too.
--
-- parameters  as pgq.dead_letters; execute: whether the caller settles them in this transaction
-- locks   if so: the DEAD LETTER locks of their topics, until the transaction ends
-- raises  as pgq._find_dead_letters
create or replace function pgq._take_dead_letters(
    topic text, group_id text, error text, since timestamptz, until timestamptz, most int, execute boolean)
returns table (partition_id int, "offset" bigint, failed_at timestamptz)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    seen record;
    locked_id int;
begin
    loop
        select array_agg(f.topic_id) as topics, array_agg(f.partition_id) as partitions, array_agg(f."offset") as offsets,
               array_agg(f.failed_at) as times
          into seen
          from pgq._find_dead_letters(_take_dead_letters.topic, _take_dead_letters.group_id, _take_dead_letters.error,
                                      _take_dead_letters.since, _take_dead_letters.until, _take_dead_letters.most) f;
        if seen.topics is null then
            return;
        end if;
        if execute then
            for locked_id in select distinct t from unnest(seen.topics) t order by t loop
                perform pg_advisory_xact_lock((30::bigint << 58) | locked_id);
            end loop;
        end if;
        -- with a later snapshot than the lock: whoever had it may have settled some, or all of them
        return query
            select n.partition_id, n."offset", n.failed_at
              from unnest(seen.partitions, seen.offsets, seen.times) with ordinality n (partition_id, "offset", failed_at, nth)
              join pgq.partition p using (partition_id)
             where n."offset" >= p.log_start_offset
               and not exists (select from pgq.settled_dead_letter d where d.partition_id = n.partition_id and d."offset" = n."offset")
             order by n.nth;
        if found then
            return;
        end if;
    end loop;
end
$$;
