-- The value of a header as a number from 0 to maximum; null if there is no such header, or it is anything else.
create or replace function pgq._header_number(keys text[], "values" bytea[], name text, maximum bigint)
returns bigint
language plpgsql immutable
as $$
declare
    digits text := pgq._header_text(keys, "values", name);
begin
    if digits operator(pg_catalog.~) '^[0-9]{1,18}$' then
        if digits::pg_catalog.int8 operator(pg_catalog.<=) maximum then
            return digits;
        end if;
    end if;
    return null;
end
$$;
