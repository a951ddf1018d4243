-- On how many servers a commit with synchronous_commit = on is certain to be flushed when it returns, as things are now: the
-- leader, and the standbys that it waits for, as far as they are there.
--
-- Of "FIRST k (...)" and plain lists the k that are there first have sync_state sync; of "ANY k (...)" all have quorum,
-- and k of them are waited for.
-- raises  42501 where the function's owner may not see the other servers' state
create or replace function pgq._in_sync_replicas()
returns int
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    wanted int := s.wanted from pgq._synchronous_standbys() s;
    there int;
    hidden boolean;
begin
    if wanted = 0 then
        return 1;
    end if;
    select count(*) filter (where r.sync_state in ('sync', 'quorum') and r.state = 'streaming'), bool_or(r.state is null)
      into there, hidden
      from pg_stat_replication r;
    if hidden then
        raise exception 'the owner of schema pgq may not see which standbys are in sync'
            using errcode = 'insufficient_privilege',
                  hint = format('As a superuser: grant pg_read_all_stats to %I.', current_user);
    end if;
    return 1 + least(there, wanted);
end
$$;
