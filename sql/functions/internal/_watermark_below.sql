-- First offset that is not decided, given the partition's next one, which must have been read before: see pgq._high_watermark.
create or replace function pgq._watermark_below(partition_id int, next_offset bigint)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    distance bigint;
begin
    -- bigint advisory keys show as classid (high half) and objid (low half); distances are signed, modulo 2^40
    select min((((((l.classid::bigint & 255) << 32) | l.objid::bigint) - next_offset + 549755813888) & 1099511627775) - 549755813888)
      into distance
      from pg_locks l
     where l.locktype = 'advisory' and l.objsubid = 1
       and (l.classid::bigint >> 8) = ((23::bigint << 18) | partition_id)
       and l.database = (select d.oid from pg_database d where d.datname = current_database());
    return next_offset + least(coalesce(distance, 0), 0);
end
$$;
