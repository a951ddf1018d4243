-- First offset of a partition that is not decided: an open transaction may still fill it, or it was never taken.
-- Below it every offset is a committed record or will never be one, for any statement with a later snapshot.
--
-- Order matters: (a) the sequence's next offset, (b) the bases of all APPEND locks, (c) the least of them. Whoever may
-- fill an offset o took its lock with base <= o before it took o, and a commit becomes visible before its locks go.
create or replace function pgq._high_watermark(partition_id int, sequence regclass)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    next_offset bigint := pgq._next_offset(sequence);
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
