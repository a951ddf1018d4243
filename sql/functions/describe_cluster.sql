-- Describe the servers that hold the log: the leader, its followers, and the synchronous standbys that are named but not
-- connected.
--
-- returns a row a server, the leader first, the others by name:
--         server           a follower's application_name; the leader's cluster_name, else leader
--         role             leader or follower
--         address, port    the leader's as this session reaches it, a follower's as it reaches the leader; null where
--                          not known: sockets, followers' ports
--         state            of the replication: streaming, catchup, startup, stopping; disconnected where there is none
--         sync_state       sync, quorum, potential, async, as in pg_stat_replication
--         flush_lag_bytes, replay_lag_bytes  WAL that the leader has written and a follower has not yet flushed, replayed
--         lag_seconds      how far its replay was behind when it last told, 0 with nothing left to replay; null where
--                          not known
--         On a standby, which does not know the others, the one row of itself. Where the owner of schema pgq lacks
--         pg_read_all_stats, what is hidden from it is null
-- transaction  joins the caller's; shows the present, not a snapshot
create or replace function pgq.describe_cluster()
returns table (server text, role text, address text, port int, state text, sync_state text, flush_lag_bytes bigint,
               replay_lag_bytes bigint, lag_seconds double precision)
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    own_name text := nullif(current_setting('cluster_name'), '');
    own_address text := host(inet_server_addr());
    own_port int := current_setting('port')::int;
begin
    if pg_is_in_recovery() then
        return query
            select coalesce(own_name, 'follower'), 'follower', own_address, own_port,
                   coalesce(r.status, 'disconnected'), null, null::bigint,
                   (pg_last_wal_receive_lsn() - pg_last_wal_replay_lsn())::bigint, null::double precision
              from (values (1)) one
              left join pg_stat_wal_receiver r on true;
        return;
    end if;
    return query
        with standby as materialized (
            select r.*, pg_current_wal_lsn() as written
              from pg_stat_replication r
             -- neither a base backup nor a subscription that nobody waits for is a server of this log
             where r.state is distinct from 'backup'
               and not (r.sync_state = 'async' and exists (select from pg_replication_slots l
                                                            where l.active_pid = r.pid and l.slot_type = 'logical'))
        ), follower as (
            select b.application_name as server, host(b.client_addr) as address, b.state, b.sync_state,
                   (greatest(b.written, b.flush_lsn) - b.flush_lsn)::bigint as flush_lag_bytes,
                   (greatest(b.written, b.replay_lsn) - b.replay_lsn)::bigint as replay_lag_bytes,
                   case when b.replay_lsn >= b.written then 0 else extract(epoch from b.replay_lag) end::double precision as lag_seconds
              from standby b
             union all
            select n.name, null, 'disconnected', null, null, null, null
              from (select distinct unnest(s.names) as name from pgq._synchronous_standbys() s) n
             where n.name <> '*' and not exists (select from standby b where lower(b.application_name) = lower(n.name))
        )
        select coalesce(own_name, 'leader'), 'leader', own_address, own_port, null, null, null::bigint, null::bigint, null::double precision
         union all
        (select f.server, 'follower', f.address, null, f.state, f.sync_state, f.flush_lag_bytes, f.replay_lag_bytes, f.lag_seconds
           from follower f order by f.server, f.address);
end
$$;
