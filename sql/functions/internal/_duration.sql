-- A duration as people write it: ISO 8601 (PnDTnHnMnS), or numbers with units (7d, 12h, 30m, 45s). A bare number is refused: to an
-- interval it is one of seconds, and nobody who writes 7 means those.
--
-- raises  data_exception: it is none
create or replace function pgq._duration(value text)
returns interval
language plpgsql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if value !~ '^(P[0-9.YMWDTHS]*[YMWDHS]|([0-9]+(\.[0-9]+)? *[A-Za-z]+ *)+)$' then
        raise data_exception;
    end if;
    return value::interval;
end
$$;
