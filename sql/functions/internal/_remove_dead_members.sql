-- Remove the members of all groups whose sessions have ended, and which no living member is there to notice.
--
-- returns how many groups have changed
-- locks   the rows of these groups; those that somebody else holds are left for the next time
create or replace function pgq._remove_dead_members()
returns int
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    ids int[] := array(
        select m.consumer_group_id from pgq.group_member m
         where m.member_id not in (select l.member_id from pgq._group_locks() l where l.member_id is not null)
         group by m.consumer_group_id order by m.consumer_group_id);
    id int;
    result int := 0;
begin
    perform pgq._await_return(ids);
    foreach id in array ids loop
        perform from pgq.consumer_group g where g.consumer_group_id = id for no key update skip locked;
        continue when not found;
        if pgq._remove_dead(id) then
            perform pgq._bump(id);
            result := result + 1;
        end if;
    end loop;
    return result;
end
$$;
