-- Wait a moment for the members of groups whose sessions have ended: a client that has only lost its connection joins again at once,
-- as the same member, and nobody's partitions need to move for that.
--
-- returns whether any of them is missing still. A static member is not waited for: its place is kept anyway
-- transaction  before any row is locked that whoever comes back may wait for
create or replace function pgq._await_return(consumer_group_ids int[])
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    missing boolean;
    until timestamptz := clock_timestamp() + interval '200 milliseconds';
begin
    loop
        missing := exists (
            select from pgq.group_member m
             where m.consumer_group_id = any (consumer_group_ids) and m.group_instance_id is null and not pgq._is_alive(m.member_id));
        exit when not missing or clock_timestamp() >= until;
        perform pg_sleep(0.01);
    end loop;
    return missing;
end
$$;
