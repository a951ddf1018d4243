-- Refuse what cannot name a group.
--
-- raises  PQ019 (InvalidGroupIdError)
create or replace function pgq._check_group_id(group_id text)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if coalesce(group_id, '') = '' or length(group_id) > 249 then
        raise exception 'illegal group id %', coalesce(quote_literal(left(group_id, 260)), 'NULL')
            using errcode = 'PQ019', hint = 'Use 1 to 249 characters.';
    end if;
end
$$;
