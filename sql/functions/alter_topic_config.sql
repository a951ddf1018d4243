-- Change a topic's configuration: the keys given, a null value for back to the default; other keys stay.
--
-- transaction  joins the caller's; appends see it after the commit
-- returns the description, as pgq.describe_topic
-- raises  PQ001 (UnknownTopicError), PQ006 (InvalidConfigError)
create or replace function pgq.alter_topic_config(name text, config jsonb)
returns pgq.topic_description
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    id int := pgq._topic_id(name);
    checked jsonb := pgq._check_topic_config(config);
begin
    update pgq.topic t
       set config = (t.config - array(select jsonb_object_keys(alter_topic_config.config))) || checked
     where t.topic_id = id;
    perform pgq._define_produce(id);
    return pgq.describe_topic(name);
end
$$;
