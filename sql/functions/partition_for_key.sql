-- The partition that a key goes to.
--
-- partitioner  'murmur2': murmur2 without its sign, modulo the number of partitions, as Kafka's Java client;
--              'crc32': CRC-32 modulo the number of partitions, as librdkafka's partitioner `consistent`
-- returns null for a null key
-- raises  PQ023 (InvalidRequestError)
--
-- Neither strict nor with a search_path, so that the planner puts it into the caller's expression.
create or replace function pgq.partition_for_key(key bytea, partitions int, partitioner text default 'murmur2')
returns int
language sql immutable parallel safe
as $$
    select case when partitioner operator(pg_catalog.=) 'murmur2'
                then (pgq.murmur2(key) operator(pg_catalog.&) 2147483647) operator(pg_catalog.%) partitions
                when partitioner operator(pg_catalog.=) 'crc32'
                then (pgq.crc32(key) operator(pg_catalog.%) partitions)::int
                else pgq._raise_unknown_partitioner(partitioner) end
$$;
