-- Whether a group has a member whose session lives.
create or replace function pgq._has_members(consumer_group_id int)
returns boolean
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    select exists (select from pgq.group_member m
                    where m.consumer_group_id = _has_members.consumer_group_id and pgq._is_alive(m.member_id))
$$;
