-- Raise the generation of a group, and wake its members when the caller's transaction commits.
--
-- locks   the group's row
create or replace function pgq._bump(consumer_group_id int)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    result bigint;
begin
    update pgq.consumer_group g set generation = g.generation + 1
     where g.consumer_group_id = _bump.consumer_group_id returning g.generation into result;
    perform pgq._wake_group(consumer_group_id);
    return result;
end
$$;
