-- Key of the lock by which a member of a group lives: tag 25 (6 bits), member. Exclusive, its session's.
create or replace function pgq._member_key(member_id bigint)
returns bigint
language sql immutable strict
as $$
    select (25::bigint operator(pg_catalog.<<) 58) operator(pg_catalog.|) member_id
$$;
