-- Write the procedure by which pgq.produce appends to one topic, with all that is constant for the topic as constants.
--
-- Why code is generated: INSERT needs the table's name. EXECUTE 'insert ...' plans anew at every call; a procedure of
-- the topic's own keeps its plan, PostgreSQL forgets the plan when the topic changes, and pgq.produce reaches it by
-- CALL, which is parsed but not planned. docs/decisions/0001 has the measurements.
create or replace function pgq._define_produce(topic_id int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $define$
declare
    topic pgq.topic;
    ids int[];
    one boolean;
    id text;
    append_key text;
    mark text;
    sequence text;
begin
    select t.* into strict topic from pgq.topic t where t.topic_id = _define_produce.topic_id;
    ids := array(select p.partition_id from pgq.partition p where p.topic_id = topic.topic_id order by p.partition);
    one := topic.partitions = 1;
    id := case when one then ids[1]::text else 'id' end;
    append_key := format('((23::bigint << 58) | (%s::bigint << 40))', id);
    mark := case when one then format('%L', ',' || ids[1] || ',') else $$(',' || id || ',')$$ end;
    sequence := case when one then format('%L::regclass', 'pgq_log.t' || topic_id || '_p0_offset')
                     else format('(%L || partition || %L)::regclass', 'pgq_log.t' || topic_id || '_p', '_offset') end;
    execute format($procedure$
create or replace procedure %1$s(value bytea, key bytea, header_keys text[], header_values bytea[],
                                 inout partition int, "timestamp" timestamptz, inout "offset" bigint)
language plpgsql
as $body$
#variable_conflict use_variable
declare
    id int;
begin
    if partition is null then
        partition := %2$s;
    elsif partition < 0 or partition >= %3$s then
        perform pgq._raise_unknown_partition(%4$L, partition);
    end if;
    if header_keys is not null or header_values is not null or "timestamp" is not null
       or coalesce(octet_length(value), 0) + coalesce(octet_length(key), 0) > %5$s then
        perform pgq._check_record(value, key, header_keys, header_values, "timestamp", %5$s);
    end if;
    %6$s
    -- the append rule: the lock on the sequence's next offset before an offset is taken, once a transaction
    "offset" := case when strpos(current_setting('pgq.append', true), %7$s) > 0
                       or pg_advisory_xact_lock_shared(%8$s | ((coalesce(pg_sequence_last_value(%9$s), -1) + 1) & 1099511627775)) is not null
                      and set_config('pgq.append', concat(current_setting('pgq.append', true), %7$s), true) is not null
                     then nextval(%9$s) end;
    if "offset" >= coalesce(nullif(current_setting(%10$s, true), ''), '0')::bigint then
        perform pgq._cover_offset(%11$s, "offset");
    end if;
    insert into pgq_log.t%12$s (partition, "offset", "timestamp", key, value, header_keys, header_values)
    values (partition, "offset", date_trunc('milliseconds', coalesce("timestamp", clock_timestamp())), key, value, header_keys, header_values);
end
$body$
$procedure$,
        pgq._produce_procedure(topic.name),
        case when one then '0' else format('case when key is null then floor(random() * %s)::int else pgq.partition_for_key(key, %s) end', topic.partitions, topic.partitions) end,
        topic.partitions,
        topic.name,
        pgq._config_value(topic_id, 'max.message.bytes'),
        case when one then '' else format('id := (%L::int[])[partition + 1];', ids) end,
        mark,
        append_key,
        sequence,
        case when one then format('%L', 'pgq.covered_' || ids[1]) else $$'pgq.covered_' || id$$ end,
        id,
        topic_id);
end
$define$;
