-- Take one offset of a partition by the append rule: the lock on the sequence's next offset first, once a transaction; and
-- notify who is parked at the topic.
--
-- locks  APPEND and PARK, shared, until the transaction ends
create or replace function pgq._take_offset(topic_id int, partition_id int, sequence regclass)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    mark text := ',' || partition_id || ',';
begin
    if coalesce(strpos(current_setting('pgq.append', true), mark), 0) = 0 then
        perform pg_advisory_xact_lock_shared(pgq._append_key(partition_id, pgq._next_offset(sequence)));
        perform set_config('pgq.append', concat(current_setting('pgq.append', true), mark), true);
        if not pg_try_advisory_xact_lock_shared(pgq._park_key(topic_id)) then
            perform pgq._wake(topic_id);
        end if;
    end if;
    return nextval(sequence);
end
$$;
