-- Write, or write anew, what a topic has in code: the procedure that pgq.produce calls, its view, and what roles may do.
create or replace function pgq._define_topic(topic_id int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
begin
    perform pgq._define_produce(topic_id);
    perform pgq._define_view(topic_id);
    perform pgq._grant_topic(topic_id);
end
$$;
