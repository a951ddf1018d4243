-- See that everything written so far survives a crash, offsets of rolled-back transactions included: those flush
-- nothing, so a crash would set the sequence back and the offsets that a reader stepped over would be given out again.
--
-- On 17 and later the log is flushed here. Before that no function can: a transactional message makes this
-- transaction's commit flush it, so the caller must not act on its result before that commit.
create or replace function pgq._flush_wal()
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn() then
        if current_setting('server_version_num')::int >= 170000 then
            execute $q$ select pg_logical_emit_message(false, 'pgq', '', true) $q$;
        else
            if current_setting('synchronous_commit') = 'off' then
                perform set_config('synchronous_commit', 'local', true);
            end if;
            perform pg_logical_emit_message(true, 'pgq', '');
        end if;
    end if;
end
$$;
