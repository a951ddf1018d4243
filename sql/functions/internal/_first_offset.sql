-- Offset of the first record in a range that a new snapshot shows, or null. A segment at a time, both bounds given:
-- an open-ended read would lock every segment.
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
    for segment in
        select format('pgq_log.t%s_p%s', p.topic_id, p.partition) as parent,
               greatest(s.base_offset, from_offset) as low, least(s.end_offset, to_offset) as high
          from pgq.partition p join pgq.segment s using (partition_id)
         where p.partition_id = _first_offset.partition_id and s.end_offset > from_offset and s.base_offset < to_offset
         order by s.base_offset
    loop
        execute format('select "offset" from %s where "offset" >= $1 and "offset" < $2 %s order by "offset" limit 1',
                       segment.parent, case when "timestamp" is not null then 'and "timestamp" >= $3' else '' end)
            into result using segment.low, segment.high, "timestamp";
        if result is not null then
            return result;
        end if;
    end loop;
    return null;
end
$$;
