-- Give dead letters up, and mark them so; without execute say which. What pgq.purge_dead_letters does, which tells more of them.
--
-- parameters  as pgq.purge_dead_letters
-- transaction, locks, raises  as pgq.purge_dead_letters
create or replace function pgq._purge(
    topic text, group_id text, error text, since timestamptz, until timestamptz, most int, execute boolean)
returns table (partition_id int, "offset" bigint)
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    plan record;
begin
    select array_agg(f.partition_id) as partition_ids, array_agg(f."offset") as offsets into plan
      from pgq._take_dead_letters(_purge.topic, _purge.group_id, _purge.error, _purge.since, _purge.until, _purge.most, _purge.execute) f;
    if plan.offsets is not null and execute then
        perform pgq._settle_dead_letters(plan.partition_ids, plan.offsets, 'purged');
    end if;
    return query select * from unnest(plan.partition_ids, plan.offsets);
end
$$;
