-- Whether a segment has a record of that time or later. Keeps no lock, so that any number can be asked in one
-- transaction.
create or replace function pgq._is_younger(leaf text, since timestamptz)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    result boolean;
begin
    result := pgq._has_since(leaf, since);
    raise exception 'taken back' using errcode = 'triggered_action_exception';
exception when triggered_action_exception then
    return result;  -- the variable stays
end
$$;
