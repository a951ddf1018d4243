-- Drop up to 50 segments or 25 partitions of a topic that is being deleted, the topic itself at last.
--
-- returns how many segments are left, at least 1 while anything is left; 0: the topic is gone
-- locks   ACCESS EXCLUSIVE on what it drops and the table above
create or replace function pgq._drop_step(topic_id int)
returns bigint
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    part pgq.partition;
    segment record;
    segments int := 0;
    partitions int := 0;
begin
    for part in select p.* from pgq.partition p where p.topic_id = _drop_step.topic_id order by p.partition_id loop
        -- sequences first and in this order, as everybody locks them: waits for those that have taken offsets, and rewrites nothing
        execute format('alter sequence %s owned by none', part.sequence);
        for segment in
            select s.base_offset from pgq.segment s
             where s.partition_id = part.partition_id order by s.base_offset limit 51 - segments
        loop
            segments := segments + 1;
            exit when segments > 50;
            execute format('drop table if exists pgq_log.t%s_p%s_s%s', topic_id, part.partition, segment.base_offset);
            delete from pgq.segment s where s.partition_id = part.partition_id and s.base_offset = segment.base_offset;
        end loop;
        exit when segments > 50;
        -- waits for transactions that commit offsets for it, which hold it by their foreign key
        perform from pgq.partition p where p.partition_id = part.partition_id for update;
        perform pgq._drop_compaction_copies(part.partition_id, null);
        delete from pgq.committed_offset c where c.partition_id = part.partition_id;
        delete from pgq.skipped_range r where r.partition_id = part.partition_id;
        delete from pgq.partition p where p.partition_id = part.partition_id;
        execute format('drop table if exists pgq_log.t%s_p%s', topic_id, part.partition);
        execute format('drop sequence %s', part.sequence);
        partitions := partitions + 1;
        exit when partitions = 25;
    end loop;
    if not exists (select from pgq.partition p where p.topic_id = _drop_step.topic_id) then
        execute format('drop table pgq_log.t%s', topic_id);
        delete from pgq.topic t where t.topic_id = _drop_step.topic_id;
        return 0;
    end if;
    return greatest(1, (select count(*) from pgq.segment s join pgq.partition p using (partition_id)
                         where p.topic_id = _drop_step.topic_id));
end
$$;
