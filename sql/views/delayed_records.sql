-- Records that wait for their time, with what pgq.cancel_delayed takes.
create or replace view pgq.delayed_records as
select t.name as topic, d.partition, concat((extract(epoch from d.due_at) * 1000)::bigint, '-', d.serial) as delayed_id, d.due_at, d.created_at,
       case when d.codec is null then pgq._text(d.value) end as value_text, pgq._text(d.key) as key_text,
       d.key, d.value, d.header_keys, d.header_values, d.codec
  from pgq._delayed_records() d join pgq.topic t using (topic_id);
