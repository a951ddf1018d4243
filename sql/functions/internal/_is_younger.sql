-- Whether a segment has a record of that time or later: what keeps it from being deleted by age, or compacted. Keeps no lock,
-- so that any number can be asked in one transaction.
--
-- A look at its last record, which is the latest in most; else its BRIN index says which pages to read.
create or replace function pgq._is_younger(leaf text, since timestamptz)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
    result boolean;
begin
    execute format('select coalesce((select "timestamp" from %1$s order by "offset" desc limit 1) >= $1, false)', leaf)
        into result using since;
    if not result then
        execute format('select exists (select from %1$s where "timestamp" >= $1)', leaf) into result using since;
    end if;
    raise exception 'taken back' using errcode = 'triggered_action_exception';
exception when triggered_action_exception then
    return result;  -- the variable stays
end
$$;
