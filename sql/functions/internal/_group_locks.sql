-- Which members live and who holds which partition for its group, as the lock table says. It is read once.
--
-- returns a row a living member: member_id and the pid of its session; and a row a claim: consumer_group_id, partition_id
--         and the pid of the session that holds it. Nothing on a standby, which does not know the leader's locks
create or replace function pgq._group_locks()
returns table (member_id bigint, consumer_group_id int, partition_id int, pid int)
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    -- the keys of pgq._member_key and pgq._claim_key. Exclusive: whoever looks whether a member lives takes it shared, and
    -- so does a commit from outside the claim
    select case when k.tag = 25 then k.key & 288230376151711743 end,
           case when k.tag = 26 then ((k.key & 288230376151711743) >> 18)::int end,
           case when k.tag = 26 then (k.key & 262143)::int end, k.pid
      from (select l.pid, l.classid::bigint >> 26 as tag, (l.classid::bigint << 32) | l.objid::bigint as key
              from pg_locks l
             where l.locktype = 'advisory' and l.objsubid = 1 and l.mode = 'ExclusiveLock' and l.granted
               and l.database = (select d.oid from pg_database d where d.datname = current_database())) k
     where k.tag in (25, 26)
$$;
