-- Whether a segment has a record of that time or later: what keeps it from being deleted by age.
--
-- A look at its last record, which is the latest in most; else its BRIN index says which pages to read.
create or replace function pgq._has_since(leaf text, since timestamptz)
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
    return result;
end
$$;
