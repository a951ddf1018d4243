-- Make the view of a topic in schema pgq_topic: for people with psql, not for readers that must not miss a record.
-- It may show records above the high watermark.
create or replace function pgq._define_view(topic_id int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    view_name text := (select pgq._view_name(t.topic_id, t.name) from pgq.topic t where t.topic_id = _define_view.topic_id);
begin
    execute format(
        'create or replace view pgq_topic.%I as'
        ' select r.partition, r."offset", r."timestamp", pgq._text(r.key) as key, case when r.codec is null then pgq._text(r.value) end as value,'
        ' case when r.codec is null then pgq._json(r.value) end as value_json,'
        ' pgq._headers_json(r.header_keys, r.header_values) as headers, r.key as key_bytes, r.value as value_bytes, r.codec,'
        ' case r.codec when 1 then ''gzip'' when 3 then ''lz4'' when 4 then ''zstd'' end as compression'
        ' from pgq_log.t%s r'
        ' join pgq.partition p on p.topic_id = %2$s and p.partition = r.partition and r."offset" >= p.log_start_offset',
        view_name, topic_id);
    execute format('comment on view pgq_topic.%I is %L', view_name,
                   'The records of the topic, those above the high watermark too. key, value: null unless they are UTF-8 text, and the value is not compressed.');
end
$$;
