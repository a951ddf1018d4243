-- The n sub-keys of a key: all that pgq.compound_key makes, or n that go to n different partitions.
--
-- n            how many, 1 to 1000
-- partitions   null: those with the salts 0 to n - 1, of which some share a partition. Else how many the topic has: those
--              with the lowest salts that go to different ones
-- partitioner  as in pgq.partition_for_key
-- returns them by ascending salt; nothing for a null key
-- raises  PQ023 (InvalidRequestError)
create or replace function pgq.compound_keys(key bytea, n int, partitions int default null, partitioner text default 'murmur2')
returns setof bytea
language plpgsql immutable parallel safe
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    taken boolean[] := '{}';
    sub_key bytea;
    partition int;
    found int := 0;
begin
    perform pgq._check_sub_keys(n);
    if n > partitions then
        raise exception '% sub-keys cannot go to % different partitions', n, partitions
            using errcode = 'PQ023', hint = format('Give an n of at most %s, or no partitions.', partitions);
    end if;
    if key is null then
        return;
    end if;
    for salt in 0 .. 999999 loop
        exit when found = n;
        sub_key := key || convert_to('#salt=' || salt, 'UTF8');
        if partitions is not null then
            partition := pgq.partition_for_key(sub_key, partitions, partitioner);
            continue when taken[partition];
            taken[partition] := true;
        end if;
        found := found + 1;
        return next sub_key;
    end loop;
end
$$;
