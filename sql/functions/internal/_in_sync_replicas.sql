-- placeholder until the cluster branch
create or replace function pgq._in_sync_replicas() returns int language sql as $$ select 1 $$;
