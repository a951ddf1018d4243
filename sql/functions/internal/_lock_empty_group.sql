-- Lock a group without living members, so that nobody joins it before the transaction ends; returns its id.
--
-- transaction  any; if members came after the snapshot of a REPEATABLE READ one, it is refused by PostgreSQL (40001)
-- locks   the group's row, and those of its members
-- raises  PQ039 (NonEmptyGroupError), PQ040 (GroupIdNotFoundError)
create or replace function pgq._lock_empty_group(group_id text)
returns int
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := pgq._lock_group(group_id);
begin
    if pgq._has_members(id) then
        raise exception 'group % has members', quote_literal(group_id)
            using errcode = 'PQ039', hint = 'Stop them first: pgq.member_status names them.';
    end if;
    return id;
end
$$;
