-- The partition that a key goes to: murmur2 without its sign, modulo the number of partitions, as Kafka's Java client.
create or replace function pgq.partition_for_key(key bytea, partitions int)
returns int
language sql immutable strict parallel safe
as $$ select (pgq.murmur2(key) operator(pg_catalog.&) 2147483647) operator(pg_catalog.%) partitions $$;
