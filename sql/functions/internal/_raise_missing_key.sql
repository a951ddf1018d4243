-- Refuse a record without a key in a compacted topic: nobody could ever replace it.
--
-- raises  PQ018 (InvalidRecordError)
create or replace function pgq._raise_missing_key(topic text)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    raise exception 'topic % is compacted and takes no record without a key', quote_literal(topic)
        using errcode = 'PQ018', hint = 'Give a key: compaction keeps the last record of each.';
end
$$;
