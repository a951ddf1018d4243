-- The timeline that this server writes: another one after each failover. Not on a standby.
create or replace function pgq._leader_epoch()
returns int
language sql
set search_path = pgq, pg_catalog, pg_temp
as $$
    -- pg_control_checkpoint() knows the new one only after a checkpoint
    select ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
$$;
