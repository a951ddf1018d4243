-- Offset of the first record in a range that a new snapshot shows, or null.
--
-- from_offset, to_offset  the range, to_offset not included
-- "timestamp"             only records of that time or later, if given
create or replace function pgq._first_offset(partition_id int, from_offset bigint, to_offset bigint, "timestamp" timestamptz default null)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    segment record;
    result bigint;
begin
    for segment in select * from pgq._segments_between(partition_id, from_offset, to_offset) loop
        execute format('select "offset" from %s where "offset" >= $1 and "offset" < $2 %s order by "offset" limit 1',
                       segment.relation, case when "timestamp" is not null then 'and "timestamp" >= $3' else '' end)
            into result using segment.low, segment.high, "timestamp";
        if result is not null then
            return result;
        end if;
    end loop;
    return null;
end
$$;
