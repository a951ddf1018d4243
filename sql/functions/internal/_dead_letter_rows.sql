-- The records at offsets of partitions; no row for one that is gone. Only the segments that hold them are looked at.
--
-- partition_ids, offsets  parallel arrays
create or replace function pgq._dead_letter_rows(partition_ids int[], offsets bigint[])
returns table (partition_id int, "offset" bigint, "timestamp" timestamptz, key bytea, value bytea, header_keys text[],
               header_values bytea[], codec smallint)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    part record;
    segment record;
    low bigint;
begin
    for part in
        select n.partition_id, array_agg(n."offset") as offsets, min(n."offset") as low, max(n."offset") + 1 as high
          from unnest(_dead_letter_rows.partition_ids, _dead_letter_rows.offsets) n (partition_id, "offset")
         group by n.partition_id order by n.partition_id
    loop
        low := part.low;
        for attempt in 1 .. 5 loop
            begin
                for segment in
                    select s.* from pgq._segments_between(part.partition_id, low, part.high) s
                     where exists (select from unnest(part.offsets) o ("offset") where o."offset" >= s.low and o."offset" < s.high)
                loop
                    return query execute format('select $1, s."offset", s."timestamp", s.key, s.value, s.header_keys, s.header_values, s.codec'
                        ' from %s s where s."offset" = any ($2) and s."offset" >= $3 and s."offset" < $4', segment.relation)
                        using part.partition_id, part.offsets, segment.low, segment.high;
                    low := segment.high;
                end loop;
                exit;
            exception when undefined_table or internal_error then
                -- a segment went away meanwhile: the next look knows, and what was returned so far stays
                if attempt = 5 then
                    raise;
                end if;
            end;
        end loop;
    end loop;
end
$$;
