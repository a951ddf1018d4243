-- Key of the PARK lock of a topic: tag 24 (6 bits), topic. Exclusive, a session's: somebody waits to be notified of what is
-- appended. Shared, a transaction's: it has seen that nobody does.
create or replace function pgq._park_key(topic_id int)
returns bigint
language sql immutable strict
as $$
    select (24::bigint operator(pg_catalog.<<) 58) operator(pg_catalog.|) topic_id::bigint
$$;
