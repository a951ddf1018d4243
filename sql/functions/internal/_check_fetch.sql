-- Refuse to fetch where a fetch could skip records.
--
-- raises  PQ009 (IsolationLevelError), PQ010 (NotLeaderError), PQ011 (FetchAfterProduceError)
create or replace function pgq._check_fetch(topic_id int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        raise exception 'cannot fetch in a % transaction', upper(current_setting('transaction_isolation'))
            using errcode = 'PQ009',
                  hint = 'Its snapshot is older than the high watermark, so records would be skipped: use READ COMMITTED.';
    end if;
    perform pgq._check_leader();
    if current_setting('pgq.append', true) <> '' and exists (
        select from pgq.partition p
         where p.topic_id = _check_fetch.topic_id
           and strpos(current_setting('pgq.append', true), ',' || p.partition_id || ',') > 0) then
        raise exception 'cannot fetch from a topic in the transaction that has produced to it'
            using errcode = 'PQ011', hint = 'Commit first, or fetch on another connection.';
    end if;
end
$$;
