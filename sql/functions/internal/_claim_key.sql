-- Key of the lock by which a member holds a partition for its group: tag 26 (6 bits), group, partition. Exclusive, its
-- session's. Shared, a transaction's: somebody who is no member commits there.
create or replace function pgq._claim_key(consumer_group_id int, partition_id int)
returns bigint
language sql immutable strict
as $$
    select (26::bigint operator(pg_catalog.<<) 58) operator(pg_catalog.|) (consumer_group_id::bigint operator(pg_catalog.<<) 18)
           operator(pg_catalog.|) partition_id::bigint
$$;
