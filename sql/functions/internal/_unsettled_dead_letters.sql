-- Offsets of the first records of a dead letter partition that are neither redriven nor purged, and fit the filters; and
-- when they failed. They are looked for here, so that a narrow filter brings only what fits to the client. What is beyond the high
-- watermark is left out. Keeps no lock of a segment.
--
-- Records are walked in order until there are enough. Without statistics, as young segments are, the planner would rather read all
-- of a segment, and sort.
--
-- error, since, until  as pgq.dead_letters
-- most                 how many at most
create or replace function pgq._unsettled_dead_letters(partition_id int, error text, since timestamptz, until timestamptz, most int)
returns table ("offset" bigint, failed_at timestamptz)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
set enable_sort = off
set enable_bitmapscan = off
set enable_hashjoin = off
as $$
#variable_conflict use_variable
declare
    part pgq.partition;
    segment record;
    low bigint := 0;
    high bigint;
    some_offsets bigint[];
    some_times timestamptz[];
    offsets bigint[] := '{}';
    times timestamptz[] := '{}';
begin
    for attempt in 1 .. 5 loop
        begin
            select p.* into part from pgq.partition p where p.partition_id = _unsettled_dead_letters.partition_id;
            low := greatest(low, part.log_start_offset);
            -- where there is nothing the sequence is not looked at, which would be locked until the transaction ends
            exit when (pgq._first_record(partition_id, low, 9223372036854775807))."offset" is null;
            high := pgq._high_watermark(partition_id, part.sequence);
            for segment in select * from pgq._segments_between(partition_id, low, high) loop
                begin
                    execute format($select$
                        select array_agg(r."offset" order by r."offset"), array_agg(r.failed_at order by r."offset")
                          from (select s."offset", pgq._failed_at(s.header_keys, s.header_values, s."timestamp") as failed_at
                                  from %s s
                                 where s."offset" >= $1 and s."offset" < $2
                                   and not exists (select from pgq.settled_dead_letter d
                                                    where d.partition_id = $3 and d."offset" = s."offset")
                                   and ($4 is null
                                        or strpos(lower(pgq._header_text(s.header_keys, s.header_values, 'pgq.last_error')), lower($4)) > 0
                                        or strpos(lower(pgq._header_text(s.header_keys, s.header_values, 'pgq.first_error')), lower($4)) > 0)
                                   and ($5 is null or pgq._failed_at(s.header_keys, s.header_values, s."timestamp") >= $5)
                                   and ($6 is null or pgq._failed_at(s.header_keys, s.header_values, s."timestamp") < $6)
                                 order by s."offset" limit $7) r
                        $select$, segment.relation)
                        into some_offsets, some_times
                        using segment.low, segment.high, partition_id, error, since, until, most - cardinality(offsets);
                    raise exception 'taken back' using errcode = 'triggered_action_exception';
                exception when triggered_action_exception then
                    null;  -- the variables stay, the lock of the segment does not
                end;
                offsets := offsets || some_offsets;
                times := times || some_times;
                low := segment.high;
                exit when cardinality(offsets) >= most;
            end loop;
            exit;
        exception when undefined_table or internal_error or deadlock_detected then
            -- a segment or the topic went away meanwhile: the next look knows
            if attempt = 5 then
                raise;
            end if;
        end;
    end loop;
    return query select f."offset", f.failed_at from unnest(offsets, times) f ("offset", failed_at);
end
$$;
