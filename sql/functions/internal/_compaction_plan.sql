-- What a pass has to do, once pgq._read_compaction_step has looked at all segments: which neighbours become one.
--
-- returns a row a group of segments that are to be replaced, in order. The last row has no bases and says where the
--         pass ends
--         bases            the segments' base offsets
--         end_offset       where the last of them ends
--         removable_below  tombstones below it go, as pgq._compaction_state says
--         records, kept    how many records there are, and remain, in the group; in the last row in all closed
--                          segments
--         tombstones       how many of what remains have no value
--
-- Merged are neighbours whose records fit segment.bytes, else the number of small segments would grow without bound;
-- 16 at most, since the swap locks them all. A segment that keeps all its records and has no such neighbour is left
-- alone.
create or replace function pgq._compaction_plan(partition_id int)
returns table (
    bases bigint[], end_offset bigint, removable_below bigint, records bigint, kept bigint, tombstones bigint)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_variable
declare
    target constant bigint := (select pgq._segment_bytes(p.topic_id) from pgq.partition p
                                where p.partition_id = _compaction_plan.partition_id);
    segment record;
    segment_bytes bigint;
    group_bytes bigint;
begin
    for segment in select s.* from pg_temp.compaction_segment s order by s.base_offset loop
        segment_bytes := segment.bytes * segment.kept / greatest(segment.records, 1);
        if cardinality(bases) = 16 or group_bytes > 0 and group_bytes + segment_bytes > target then
            if cardinality(bases) > 1 or kept < records then
                return next;
            end if;
            bases := null;
        end if;
        bases := bases || segment.base_offset;
        if cardinality(bases) = 1 then
            group_bytes := 0;
            records := 0;
            kept := 0;
            tombstones := 0;
            removable_below := segment.removable_below;
        end if;
        end_offset := segment.end_offset;
        group_bytes := group_bytes + segment_bytes;
        records := records + segment.records;
        kept := kept + segment.kept;
        tombstones := tombstones + segment.tombstones;
    end loop;
    if cardinality(bases) > 1 or kept < records then
        return next;
    end if;
    return query
        select null::bigint[], max(s.end_offset), max(s.removable_below), sum(s.records)::bigint,
               sum(s.kept)::bigint, sum(s.tombstones)::bigint
          from pg_temp.compaction_segment s;
end
$$;
