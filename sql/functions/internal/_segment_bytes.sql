-- Size on disk at which a topic's segments end: segment.bytes; where the topic does not set it, an eighth of retention.bytes
-- at most, so that a small log is cut finely enough, but a mebibyte at least.
create or replace function pgq._segment_bytes(topic_id int)
returns bigint
language sql stable
set search_path = pgq, pg_catalog, pg_temp
as $$
    select coalesce((t.config -> 'segment.bytes')::bigint,
                    least(pgq._config_value(t.topic_id, 'segment.bytes')::bigint,
                          case when r.bytes >= 0 and pgq._config_value(t.topic_id, 'cleanup.policy') <> 'compact'
                               then greatest(1048576, r.bytes / 8) end))
      from pgq.topic t
     cross join lateral (select pgq._config_value(t.topic_id, 'retention.bytes')::bigint as bytes) r
     where t.topic_id = _segment_bytes.topic_id
$$;
