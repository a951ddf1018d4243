-- Next offset that a partition's sequence gives out, as pgq._next_offset, which keeps a lock on the sequence until the transaction
-- ends. This keeps none, so that any number can be asked in one transaction, and waits for no roll.
--
-- raises  undefined_table: it is gone
create or replace function pgq._peek_offset(sequence regclass)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    name text := (select format('%I.%I', n.nspname, c.relname)
                    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = sequence);
    result bigint;
begin
    if name is null then
        raise undefined_table;
    end if;
    execute format('select case when is_called then last_value + 1 else 0 end from %s', name) into result;
    raise exception 'taken back' using errcode = 'triggered_action_exception';
exception when triggered_action_exception then
    return result;  -- the variable stays, the lock does not
end
$$;
