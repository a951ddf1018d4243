-- Make a partition of a topic: its sequence, its table, its first segment.
--
-- locks   the topic's root table SHARE UPDATE EXCLUSIVE, about 14 locks in all until the transaction ends
-- tables  inserts into pgq.partition, pgq.segment
create or replace function pgq._create_partition(topic_id int, partition int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    name text := format('pgq_log.t%s_p%s', topic_id, partition);
    id int;
begin
    execute format('create sequence %s_offset minvalue 0 start 0 cache 1', name);
    -- attached, not created, as a partition: CREATE ... PARTITION OF would lock the root against everybody
    execute format('create table %s (like pgq_log.t%s) partition by range ("offset")', name, topic_id);
    execute format('alter table pgq_log.t%s attach partition %s for values in (%s)', topic_id, name, partition);
    insert into pgq.partition (topic_id, partition, sequence)
    values (topic_id, partition, (name || '_offset')::regclass)
    returning partition_id into id;
    perform pgq._make_segment(id, 0);
end
$$;
