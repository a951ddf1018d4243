-- Trigger of every topic's root table: refuse rows that came without the append rule of pgq.begin_append.
-- A guard against accidents (such rows would be skipped by readers), not against the owner.
--
-- raises  PQ012 (DirectInsertError)
create or replace function pgq._refuse_direct_insert()
returns trigger
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    raise exception 'direct INSERT into the log table %.%', tg_table_schema, tg_table_name
        using errcode = 'PQ012', hint = 'Append with pgq.produce, pgq.produce_batch or a pgq client.';
end
$$;
