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
begin
    return pgq._watermark_below(partition_id, next_offset);
end
$$;
