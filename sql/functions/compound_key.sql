-- One of the n sub-keys of a key that is too hot for one partition: the key and '#salt=' with a number below n.
--
-- n       how many sub-keys there are, 1 to 1000
-- salt    which: its remainder by n. The same salt gives the same sub-key, so order stays among records of one salt.
--         Null: any
-- returns null for a null key
-- raises  PQ023 (InvalidRequestError)
create or replace function pgq.compound_key(key bytea, n int, salt bigint default null)
returns bytea
language plpgsql volatile parallel restricted
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    perform pgq._check_sub_keys(n);
    return key || convert_to('#salt=' || case when salt is null then floor(random() * n)::bigint
                                              else (salt % n + n) % n end, 'UTF8');
end
$$;
