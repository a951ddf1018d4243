-- Refuse an append that asks for more servers than a commit is certain to reach now.
--
-- replicas  min.insync.replicas, the leader included
-- raises  PQ029 (NotEnoughReplicasError)
create or replace function pgq._check_replicas(replicas int)
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    in_sync int := pgq._in_sync_replicas();
begin
    if in_sync < replicas then
        raise exception '% in sync, min.insync.replicas is %', in_sync, replicas
            using errcode = 'PQ029',
                  hint = 'Nothing was appended. Bring synchronous standbys back (pgq cluster describe), or lower min.insync.replicas.';
    end if;
end
$$;
