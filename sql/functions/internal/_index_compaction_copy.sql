-- Give a copy that is filled the indexes that a segment has, in the transaction that filled it; returns how many
-- records it has.
create or replace function pgq._index_compaction_copy(name text)
returns bigint
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    records bigint;
begin
    execute format('alter table pgq_log.%1$I add constraint %2$I primary key ("offset")', name, name || '_pkey');
    execute format('create index %2$I on pgq_log.%1$I using brin ("timestamp") with (autosummarize = on)',
                   name, name || '_brin');
    execute format('select count(*) from pgq_log.%I', name) into records;
    return records;
end
$$;
