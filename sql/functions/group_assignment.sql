-- What a member needs to work out which partitions are its own: every member does so alike.
--
-- returns generation  that this is of
--         assignor    how partitions are shared out
--         members     a JSON array of [member_id, name, topics]: the name is the group_instance_id, else the member_id as text
--         topics      a JSON object: topic -> [topic_id, [partition_id of partition 0, of partition 1, …]]
--         null if this is no member any more
create or replace function pgq.group_assignment(
    member_id bigint, out generation bigint, out assignor text, out members jsonb, out topics jsonb)
language sql stable security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
    select g.generation, g.assignor,
           (select jsonb_agg(jsonb_build_array(m.member_id, coalesce(m.group_instance_id, m.member_id::text), m.topics) order by m.member_id)
              from pgq.group_member m where m.consumer_group_id = g.consumer_group_id),
           (select jsonb_object_agg(t.name, jsonb_build_array(t.topic_id, array(
                       select p.partition_id from pgq.partition p
                        where p.topic_id = t.topic_id and p.partition < t.partitions order by p.partition)))
              from pgq.topic t
             where t.state = 'ready' and t.name in (
                   select unnest(m.topics) from pgq.group_member m where m.consumer_group_id = g.consumer_group_id))
      from pgq.group_member me join pgq.consumer_group g using (consumer_group_id)
     where me.member_id = group_assignment.member_id
$$;
