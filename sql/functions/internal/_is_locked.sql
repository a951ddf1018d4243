-- Whether another session holds an advisory lock, exclusive. Looking leaves no lock behind, so that it is in nobody's way.
--
-- locks   the lock, shared, for a moment if nobody has it: two who look at once do not take each other for the holder
create or replace function pgq._is_locked(key bigint)
returns boolean
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if pg_try_advisory_lock_shared(key) then
        perform pg_advisory_unlock_shared(key);
        return false;
    end if;
    return true;
end
$$;
