-- Refuse what needs the primary's lock table on a standby.
--
-- raises  PQ010 (NotLeaderError)
create or replace function pgq._check_leader()
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if pg_is_in_recovery() then
        raise exception 'this server is a standby'
            using errcode = 'PQ010',
                  hint = 'Only the primary knows which offsets are decided: connect to it (target_session_attrs=read-write).';
    end if;
end
$$;
