-- The hash by which Kafka's Java client spreads keys, as a signed 32-bit integer.
--
-- source  the 32-bit variant of Austin Appleby's MurmurHash2 with seed 0x9747b28c, little endian
create or replace function pgq.murmur2(key bytea)
returns int
language plpgsql immutable strict parallel safe
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    m constant bigint := 1540483477;      -- 0x5bd1e995; a product with 32 bits stays below 2^63
    mask constant bigint := 4294967295;
    n constant int := octet_length(key);
    h bigint := 2538058380 # n;           -- 0x9747b28c
    k bigint;
    i int := 0;
begin
    while i + 4 <= n loop
        k := get_byte(key, i) | (get_byte(key, i + 1)::bigint << 8)
           | (get_byte(key, i + 2)::bigint << 16) | (get_byte(key, i + 3)::bigint << 24);
        k := (k * m) & mask;
        k := ((k # (k >> 24)) * m) & mask;
        h := ((h * m) & mask) # k;
        i := i + 4;
    end loop;
    if n - i >= 3 then h := h # (get_byte(key, i + 2)::bigint << 16); end if;
    if n - i >= 2 then h := h # (get_byte(key, i + 1)::bigint << 8); end if;
    if n - i >= 1 then h := ((h # get_byte(key, i)) * m) & mask; end if;
    h := ((h # (h >> 13)) * m) & mask;
    h := h # (h >> 15);
    return case when h > 2147483647 then h - 4294967296 else h end;
end
$$;
