-- Key of the lock by which a session compacts a partition: tag 28 (6 bits), partition. Exclusive, the session's that
-- writes: while a statement of a killed client still runs there, nobody else begins.
create or replace function pgq._compaction_key(partition_id int)
returns bigint
language sql immutable strict
as $$
    select (28::bigint operator(pg_catalog.<<) 58) operator(pg_catalog.|) partition_id::bigint
$$;
