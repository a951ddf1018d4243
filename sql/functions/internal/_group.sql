-- The id of a group, which is made if it does not exist.
--
-- raises  PQ019 (InvalidGroupIdError)
create or replace function pgq._group(group_id text)
returns int
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    result int;
begin
    loop
        select g.consumer_group_id into result from pgq.consumer_group g where g.name = group_id;
        if found then
            return result;
        end if;
        perform pgq._check_group_id(group_id);
        insert into pgq.consumer_group (name) values (group_id) on conflict do nothing returning consumer_group_id into result;
        if found then
            return result;
        end if;
        -- made by another transaction. In a snapshot of before that it cannot be seen
        if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
            raise exception 'group % was made beside this transaction', quote_literal(group_id)
                using errcode = 'serialization_failure', hint = 'Try the transaction again.';
        end if;
    end loop;
end
$$;
