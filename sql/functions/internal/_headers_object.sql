-- Headers given as JSON: an object, or null (SQL's or JSON's).
--
-- raises  PQ018 (InvalidRecordError)
create or replace function pgq._headers_object(headers jsonb)
returns jsonb
language plpgsql immutable
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if headers is null or jsonb_typeof(headers) = 'null' then
        return null;
    elsif jsonb_typeof(headers) <> 'object' then
        raise exception 'headers must be a JSON object, not %', jsonb_typeof(headers)
            using errcode = 'PQ018', hint = 'For example {"source": "web"}.';
    end if;
    return headers;
end
$$;
