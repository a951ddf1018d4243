-- Show that a static member is not silent, for others to see: when its session has ended nobody can tell any more since when it
-- was. A lock, for that needs no row written at each heartbeat, and no right to see what another role's session does.
--
-- locks   BEAT: the session's, until a later beat
create or replace function pgq._beat(member_id bigint, session_timeout_ms int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    beat_key bigint := pgq._beat_key(member_id, pgq._beat_now(session_timeout_ms));
    held bigint[];
begin
    if current_setting('pgq.beat', true) is distinct from beat_key::text then
        held := pgq._held_keys(31);
        -- in vain only at the moment at which somebody looks: the next heartbeat tries again
        if beat_key = any (held) or pg_try_advisory_lock(beat_key) then
            perform pg_advisory_unlock(k.key) from unnest(held) k (key) where k.key <> beat_key;
            perform set_config('pgq.beat', beat_key::text, false);
        end if;
    end if;
end
$$;
