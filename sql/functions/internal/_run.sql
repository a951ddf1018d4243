-- How far records follow each other without a hole, in a range of offsets of a partition.
--
-- returns run_end     the first offset from from_offset on that is missing; to_offset if none is
--         window_end  one past the last record in the range; null if it is empty
create or replace function pgq._run(partition_id int, from_offset bigint, to_offset bigint, out run_end bigint, out window_end bigint)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    segment record;
    here record;
begin
    run_end := from_offset;
    for segment in select * from pgq._segments_between(partition_id, from_offset, to_offset) loop
        execute format('select min("offset") as first, max("offset") + 1 as past, count(*) as n from %s where "offset" >= $1 and "offset" < $2',
                       segment.relation) into here using segment.low, segment.high;
        continue when here.n = 0;
        window_end := here.past;
        continue when run_end <> here.first;
        run_end := here.past;
        if here.past - here.first <> here.n then
            execute format('select max(r."offset") + 1 from (select "offset", "offset" - row_number() over (order by "offset") as start'
                           ' from %s where "offset" >= $1 and "offset" < $2) r where r.start = $1 - 1', segment.relation)
                into run_end using segment.low, segment.high;
        end if;
    end loop;
end
$$;
