-- Whether a member's session lives: it holds the member's lock until it ends.
--
-- locks   the member's lock if nobody has it, only tried, shared, so that two who ask at once do not take each other for the
--         member; until the end of the transaction
create or replace function pgq._is_alive(member_id bigint)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    return not pg_try_advisory_xact_lock_shared(pgq._member_key(member_id))
        -- a session is never in its own way
        or pgq._member_key(member_id) = any (pgq._held_keys(25));
end
$$;
