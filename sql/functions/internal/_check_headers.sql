-- Refuse headers that are not two arrays of one length with every key present.
--
-- raises  PQ018 (InvalidRecordError)
create or replace function pgq._check_headers(header_keys text[], header_values bytea[])
returns void
language plpgsql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if cardinality(header_keys) is distinct from cardinality(header_values)
       or array_ndims(header_keys) > 1 or array_ndims(header_values) > 1
       or array_position(header_keys, null) is not null then
        raise exception 'bad record headers'
            using errcode = 'PQ018',
                  hint = 'header_keys and header_values must be flat arrays of one length; a value may be null, a key may not.';
    end if;
end
$$;
