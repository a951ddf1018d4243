-- See that this session routes rows to a segment that it did not make: docs/decisions/0002.
--
-- A session that reads the tree of a table while a segment is attached may keep a tree without it, for good, although
-- it has been told. So the planner is asked; if it does not know the segment, a change of the tables that is taken back
-- at once makes this session forget what it knows of them.
--
-- topic_id, partition, base  the segment, whose maker has committed
-- locks  only to forget: the topic's and the partition's table SHARE UPDATE EXCLUSIVE, for a moment
create or replace function pgq._renew_tree(topic_id int, partition int, base bigint)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    root text := format('t%s', topic_id);
    plan jsonb;
begin
    execute format('explain (costs off, format json) select from pgq_log.%s where partition = %s and "offset" = %s', root, partition, base)
        into plan;
    if strpos(plan::text, format('"%s_p%s_s%s"', root, partition, base)) = 0 then
        begin
            execute format('alter table only pgq_log.%1$s alter column value set statistics -1;'
                           ' alter table only pgq_log.%1$s_p%2$s alter column value set statistics -1', root, partition);
            raise exception 'taken back' using errcode = 'triggered_action_exception';
        exception when triggered_action_exception then
            null;
        end;
    end if;
end
$$;
