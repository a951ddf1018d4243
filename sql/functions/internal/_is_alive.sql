-- Whether a member's session lives: it holds the member's lock until it ends.
create or replace function pgq._is_alive(member_id bigint)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    return pgq._is_locked(pgq._member_key(member_id))
        -- a session is never in its own way
        or pgq._member_key(member_id) = any (pgq._held_keys(25));
end
$$;
