-- Let the roles append to a topic. What they may read is granted by default privileges: pgq._grant_roles.
create or replace function pgq._grant_topic(topic_id int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    grantee text;
begin
    foreach grantee in array array['pgq_producer', 'pgq_admin'] loop
        continue when to_regrole(grantee) is null;
        execute format('grant insert on pgq_log.t%s to %I', topic_id, grantee);
        execute format('grant execute on procedure %s to %I',
                       (select pgq._produce_procedure(t.name) from pgq.topic t where t.topic_id = _grant_topic.topic_id), grantee);
    end loop;
end
$$;
