-- Say that there is no partitioner of this name.
--
-- returns never
-- raises  PQ023 (InvalidRequestError), always
create or replace function pgq._raise_unknown_partitioner(partitioner text)
returns int
language plpgsql immutable parallel safe
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    raise exception 'unknown partitioner %', coalesce(quote_literal(partitioner), 'NULL')
        using errcode = 'PQ023', hint = 'Give ''murmur2'', as Kafka''s Java client, or ''crc32'', as librdkafka.';
end
$$;
