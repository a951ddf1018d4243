-- The sessions of the other members of a group, as far as they hold their alive lock.
create or replace function pgq._busy_members(member_id bigint)
returns table (pid int, session_timeout_ms int)
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select m.pid, m.session_timeout_ms
      from pgq.group_member me join pgq.group_member m using (consumer_group_id)
      join pg_locks l on l.locktype = 'advisory' and l.objsubid = 1 and l.pid = m.pid and l.granted
                     and ((l.classid::bigint << 32) | l.objid::bigint) = pgq._member_key(m.member_id)
                     and l.database = (select d.oid from pg_database d where d.datname = current_database())
     where me.member_id = _busy_members.member_id and m.member_id <> me.member_id
$$;
