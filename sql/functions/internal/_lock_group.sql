-- Lock a group, so that nobody joins or leaves it before the transaction ends; returns its id.
--
-- locks   the group's row, but not against open transactions that have committed offsets: its key is theirs; the members' rows
-- raises  PQ040 (GroupIdNotFoundError)
create or replace function pgq._lock_group(group_id text)
returns int
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int;
begin
    select g.consumer_group_id into id from pgq.consumer_group g where g.name = group_id for no key update;
    if not found then
        raise exception 'unknown group %', coalesce(quote_literal(group_id), 'NULL')
            using errcode = 'PQ040', hint = 'pgq.group_status lists the groups that there are.';
    end if;
    -- a static member that came back has changed no row of the group, only its own: in a snapshot of before that, this is
    -- where it is noticed
    perform from pgq.group_member m where m.consumer_group_id = id order by m.member_id for key share;
    return id;
end
$$;
