-- Make the row and the root table of a topic that gets its partitions next.
--
-- returns the topic's id; null if there is a topic of that name, in whatever state
-- tables  inserts into pgq.topic
-- raises  PQ006 (InvalidConfigError)
create or replace function pgq._begin_topic(name text, partitions int, config jsonb)
returns int
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int;
begin
    insert into pgq.topic as t (name, partitions, config, state)
    values (name, partitions, pgq._check_topic_config(config), 'creating')
    on conflict do nothing
    returning t.topic_id into id;
    if id is not null then
        execute format('create table pgq_log.t%s (partition int not null, "offset" bigint not null, "timestamp" timestamptz not null,'
                       ' key bytea, value bytea, header_keys text[], header_values bytea[], codec smallint)'
                       ' partition by list (partition)', id);
        execute format('comment on table pgq_log.t%s is %L', id, 'topic ' || name);
        execute format('create trigger append_rule before insert on pgq_log.t%s for each statement'
                       ' execute function pgq._refuse_direct_insert()', id);
    end if;
    return id;
end
$$;
