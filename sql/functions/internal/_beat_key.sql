-- Key of the lock by which a static member shows when it has sent a heartbeat last: tag 31 (6 bits), beat (6 bits, modulo), member
-- (52 bits). Exclusive, its session's. A beat is an eighth of its session timeout.
create or replace function pgq._beat_key(member_id bigint, beat bigint)
returns bigint
language sql immutable strict
as $$
    select (31::bigint operator(pg_catalog.<<) 58) operator(pg_catalog.|) ((beat operator(pg_catalog.&) 63) operator(pg_catalog.<<) 52)
           operator(pg_catalog.|) member_id
$$;
