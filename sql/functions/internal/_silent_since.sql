-- Since when a static member has sent no heartbeat, if that is for half of its session timeout or longer; it should send one every
-- third.
--
-- returns the beginning of its last beat; null if it is not silent, is this session's, or has sent none yet
create or replace function pgq._silent_since(member pgq.group_member)
returns timestamptz
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    beat_ms float8 := member.session_timeout_ms / 8.0;
    beat bigint := pgq._beat_now(member.session_timeout_ms);
    since timestamptz;
begin
    if member.group_instance_id is null or member.pid = pg_backend_pid() then
        return null;
    end if;
    for back in 0 .. 15 loop
        if pgq._is_locked(pgq._beat_key(member.member_id, beat - back)) then
            since := to_timestamp((beat - back) * beat_ms / 1000);
            return case when since < clock_timestamp() - member.session_timeout_ms / 2 * interval '1 millisecond' then since end;
        end if;
    end loop;
    return null;
end
$$;
