-- First record of a dead letter partition that is not settled; the high watermark if all are. Keeps no lock of a segment.
--
-- transaction  READ COMMITTED only: records must not be hidden by a snapshot that is older than the high watermark
create or replace function pgq._settled_to(partition_id int)
returns bigint
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
    high bigint;
    result bigint;
begin
    for attempt in 1 .. 5 loop
        begin
            select p.* into part from pgq.partition p where p.partition_id = _settled_to.partition_id;
            high := pgq._high_watermark(partition_id, part.sequence);
            result := null;
            for segment in select * from pgq._segments_between(partition_id, part.log_start_offset, high) loop
                begin
                    execute format('select s."offset" from %s s where s."offset" >= $1 and s."offset" < $2'
                        ' and not exists (select from pgq.settled_dead_letter d where d.partition_id = $3 and d."offset" = s."offset")'
                        ' order by s."offset" limit 1', segment.relation)
                        into result using segment.low, segment.high, partition_id;
                    raise exception 'taken back' using errcode = 'triggered_action_exception';
                exception when triggered_action_exception then
                    null;  -- the variables stay, the lock of the segment does not
                end;
                exit when result is not null;
            end loop;
            return coalesce(result, high);
        exception when undefined_table or internal_error or deadlock_detected then
            -- a segment went away meanwhile: the next look knows
            if attempt = 5 then
                raise;
            end if;
        end;
    end loop;
end
$$;
