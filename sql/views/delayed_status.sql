-- Topics with records that wait for their time: how many, and when the first is due. Looks at each record, so with a million of
-- them it takes a second.
create or replace view pgq.delayed_status as
select t.name as topic, count(*) as records, min(d.due_at) as next_due_at,
       sum(coalesce(octet_length(d.key), 0) + coalesce(octet_length(d.value), 0))::bigint as bytes
  from pgq._delayed_records() d join pgq.topic t using (topic_id)
 group by t.name;
