-- A hash over topics and their partitions, which is another when a topic appears, grows, is deleted or made anew.
create or replace function pgq._topology(topics text[])
returns bigint
language sql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce(bit_xor(hashint8extended((t.topic_id::bigint << 18) + t.partitions, 0)), 0)
      from pgq.topic t where t.name = any (_topology.topics) and t.state = 'ready'
$$;
