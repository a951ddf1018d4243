-- The greatest offset of a segment's records at or above from_offset; null if there is none. Keeps no lock, so that any number
-- can be asked in one transaction.
create or replace function pgq._last_offset(leaf text, from_offset bigint)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    result bigint;
begin
    execute format('select max("offset") from %s where "offset" >= $1', leaf) into result using from_offset;
    raise exception 'taken back' using errcode = 'triggered_action_exception';
exception when triggered_action_exception then
    return result;  -- the variable stays
end
$$;
