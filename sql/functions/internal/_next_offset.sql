-- Next offset that a partition's sequence gives out, whatever the isolation level.
-- With the owner's rights: without one on the sequence, 17 and later would answer as if it had never been used.
create or replace function pgq._next_offset(sequence regclass)
returns bigint
language sql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$ select coalesce(pg_sequence_last_value(sequence), -1) + 1 $$;
