-- Say what acks=all means right now, and what speaks against trusting it.
--
-- returns one row:
--         synchronous_standby_names  the setting
--         in_sync_replicas  on how many servers, the leader included, a commit is certain to be flushed when it returns;
--                           null on a standby, or where the owner of schema pgq may not see it
--         acks_all          a sentence: what an append with acks=all waits for
--         warnings          sentences, {} if there is nothing to say
-- transaction  joins the caller's; shows the present, not a snapshot. Right on a standby and without pg_read_all_stats,
--              too: that is then one of the warnings
create or replace function pgq.acks_status()
returns table (synchronous_standby_names text, in_sync_replicas int, acks_all text, warnings text[])
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    asked record;
    standby constant boolean := pg_is_in_recovery();
    in_sync int;
    among text;
    advice text;
    sentence text;
    found text[] := '{}';
begin
    select s.method, s.wanted, '*' = any (s.names) as anyone, array_to_string(s.names, ', ') as names
      into asked from pgq._synchronous_standbys() s;
    among := case when asked.anyone then 'all standbys' else asked.names end;
    if not standby then
        begin
            in_sync := pgq._in_sync_replicas();
        exception when insufficient_privilege then
            get stacked diagnostics advice = pg_exception_hint;
        end;
    end if;
    sentence := case
        when standby then 'Nothing can be appended here.'
        when asked.wanted = 0 then 'acks=all waits for the leader alone, as acks=1 does.'
        else format('acks=all waits for the leader and %s %s of %s: every record is on %s servers when it is acknowledged.',
                    case asked.method when 'any' then 'any' else 'the first' end, asked.wanted, among, asked.wanted + 1) end;
    if standby then
        found := found || 'This server is a standby: ask the leader (target_session_attrs=read-write).'::text;
    elsif asked.wanted = 0 then
        found := found || 'synchronous_standby_names is empty: a record that is acknowledged is lost with the leader.'::text;
    elsif in_sync <= asked.wanted then
        found := found || format('Only %s of the %s synchronous standbys that acks=all asks for %s there: it waits until more are.',
                                 in_sync - 1, asked.wanted, case in_sync - 1 when 1 then 'is' else 'are' end);
    end if;
    if advice is not null then
        found := found || ('The owner of schema pgq may not see which standbys are in sync, so appends with acks=all to topics'
                           ' with min.insync.replicas above 1 are refused. ' || advice);
    end if;
    found := found || array(
        select format('min.insync.replicas is %s for %s, and %s in sync: appends with acks=all are refused.', c.replicas,
                      case when count(*) = 1 then 'topic ' || min(c.name)
                           else format('%s topics, such as %s', count(*), min(c.name)) end,
                      case in_sync when 1 then '1 server is' else in_sync || ' servers are' end)
          from (select t.name, coalesce(t.config ->> k.key, k.default_value #>> '{}')::int as replicas
                  from pgq.topic t join pgq.topic_config k on k.key = 'min.insync.replicas'
                 where t.state = 'ready') c
         where c.replicas > in_sync
         group by c.replicas order by c.replicas);
    found := found || array(
        select format('%s is off: %s.', s.name, s.danger)
          from (values ('fsync', 'a crash of its computer loses records, acknowledged or not, and may damage the database'),
                       ('full_page_writes', 'a crash of its computer may damage the database')) s (name, danger)
         where not current_setting(s.name)::boolean);
    return query select current_setting('synchronous_standby_names'), in_sync, sentence, found;
end
$$;
