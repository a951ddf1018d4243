-- The record at an offset; nulls if there is none any more.
create or replace function pgq._record_at(partition_id int, "offset" bigint)
returns pgq.consumer_record
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    leaf text;
    result pgq.consumer_record;
begin
    for attempt in 1 .. 5 loop
        select pgq._segment_name(p.topic_id, p.partition, s.base_offset) into leaf
          from pgq.partition p, pgq._segment_at(p.partition_id, _record_at."offset") s
         where p.partition_id = _record_at.partition_id and s.base_offset is not null;
        exit when not found;
        begin
            execute format('select partition, "offset", "timestamp", key, value, header_keys, header_values, codec from %s where "offset" = $1', leaf)
                into result using "offset";
            exit;
        exception when undefined_table or internal_error then
            -- retention has dropped it, or compaction has put it together with the one before: look again
            if attempt = 5 then
                raise;
            end if;
        end;
    end loop;
    return result;
end
$$;
