-- Trigger of every topic's root table: refuse a statement in a transaction that has not taken offsets by the append rule
-- of pgq.begin_append. No WHEN clause instead of the test, and no search_path of its own: both cost more than the rest.
-- A guard against accidents (such rows would be skipped by readers), not against the owner.
--
-- raises  PQ012 (DirectInsertError)
create or replace function pgq._refuse_direct_insert()
returns trigger
language plpgsql
as $$
begin
    if pg_catalog.current_setting('pgq.append', true) operator(pg_catalog.<>) '' then
        return null;
    end if;
    raise exception 'direct INSERT into the log table %.%', tg_table_schema, tg_table_name
        using errcode = 'PQ012', hint = 'Append with pgq.produce, pgq.produce_batch or a pgq client.';
end
$$;
