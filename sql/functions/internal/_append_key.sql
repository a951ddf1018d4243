-- Key of the APPEND lock: tag 23 (6 bits), partition (18 bits), base (40 bits, modulo).
-- It says: this transaction may still fill offsets from base on. A null is refused, since a lock on null is no lock.
create or replace function pgq._append_key(partition_id int, base bigint)
returns bigint
language plpgsql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if partition_id is null or base is null then
        raise exception 'APPEND lock on partition % from %', partition_id, base using errcode = 'null_value_not_allowed';
    end if;
    return (23::bigint << 58) | (partition_id::bigint << 40) | (base & 1099511627775);
end
$$;
