-- Bytes as JSON; null if they are none. The first byte tells most of those, without the exception, which is dear.
-- Without a search_path of its own, as every row of a topic's view comes through here.
create or replace function pgq._json(bytes bytea)
returns jsonb
language plpgsql immutable strict
as $$
begin
    -- tab, line ends, space, quote, minus, digits, [ f n t {
    if pg_catalog.octet_length(bytes) operator(pg_catalog.=) 0
       or not pg_catalog.get_byte(bytes, 0) operator(pg_catalog.=)
              any ('{9,10,13,32,34,45,48,49,50,51,52,53,54,55,56,57,91,102,110,116,123}') then
        return null;
    end if;
    return pg_catalog.convert_from(bytes, 'UTF8')::pg_catalog.jsonb;
exception when data_exception or program_limit_exceeded then
    return null;
end
$$;
