-- Refuse a number of sub-keys that makes no sense: more than a topic can have partitions, or none.
--
-- raises  PQ023 (InvalidRequestError)
create or replace function pgq._check_sub_keys(n int)
returns void
language plpgsql immutable parallel safe
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if n is null or n not between 1 and 1000 then
        raise exception 'cannot spread a key over % sub-keys', coalesce(n::text, 'NULL')
            using errcode = 'PQ023', hint = 'Give 1 to 1000, at most as many as the topic has partitions.';
    end if;
end
$$;
