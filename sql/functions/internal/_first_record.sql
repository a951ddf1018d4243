-- Offset and timestamp of the first record in a range that a new snapshot shows, or nulls. Keeps no lock, so that it can be
-- asked for any number of partitions in one transaction.
--
-- from_offset, to_offset  the range, to_offset not included
-- since                   only records of that time or later, if given
create or replace function pgq._first_record(
    partition_id int, from_offset bigint, to_offset bigint, since timestamptz default null,
    out "offset" bigint, out "timestamp" timestamptz)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    segment record;
begin
    for attempt in 1 .. 5 loop
        begin
            for segment in select * from pgq._segments_between(partition_id, from_offset, to_offset) loop
                execute format('select "offset", "timestamp" from %s where "offset" >= $1 and "offset" < $2 %s order by "offset" limit 1',
                               segment.relation, case when since is not null then 'and "timestamp" >= $3' else '' end)
                    into "offset", "timestamp" using segment.low, segment.high, since;
                exit when "offset" is not null;
            end loop;
            raise exception 'taken back' using errcode = 'triggered_action_exception';
        exception
            when triggered_action_exception then
                return;  -- the variables stay
            when undefined_table or internal_error or deadlock_detected then
                -- a segment or the topic went away meanwhile: the next look knows
                if attempt = 5 then
                    raise;
                end if;
        end;
    end loop;
end
$$;
