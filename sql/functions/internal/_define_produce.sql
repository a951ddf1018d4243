-- Write the procedure by which pgq.produce appends to one topic, with all that is constant for the topic as constants.
--
-- Why code is generated: INSERT needs the table's name. EXECUTE 'insert ...' plans anew at every call; a procedure of
-- the topic's own keeps its plan, PostgreSQL forgets the plan when the topic changes, and pgq.produce reaches it by
-- CALL, which is parsed but not planned. docs/decisions/0001 has the measurements.
--
-- In a transaction of one record every expression costs microseconds to set up, so a plain record meets two: one takes
-- the offset by the append rule (pgq._take_offset, written out), one sees that it is covered by a segment. What is not
-- plain (headers, a timestamp, another partition, too large) gets a null from the first and is looked at closely. Where
-- there is one partition its table is written to, which spares the root's trigger and a step of routing. The procedure
-- runs with the owner's rights, so that producers need none on the log; and without a search_path of its own, since
-- setting one costs as much as the lock: hence the names and operators in full.
create or replace function pgq._define_produce(topic_id int)
returns void
language plpgsql
set search_path = pgq, pg_catalog, pg_temp
as $define$
declare
    topic pgq.topic;
    ids int[];
    one boolean;
    replicas int := pgq._config_value(topic_id, 'min.insync.replicas')::int;
    stamped boolean := pgq._config_value(topic_id, 'message.timestamp.type') = 'LogAppendTime';
begin
    select t.* into strict topic from pgq.topic t where t.topic_id = _define_produce.topic_id;
    ids := array(select p.partition_id from pgq.partition p where p.topic_id = topic.topic_id and p.partition < topic.partitions order by p.partition);
    one := topic.partitions = 1;
    execute format($procedure$
create or replace procedure %1$s(value bytea, key bytea, inout partition int default null, "timestamp" timestamptz default null,
    header_keys text[] default null, header_values bytea[] default null, inout "offset" bigint default null)
language plpgsql security definer
as $body$
#variable_conflict use_variable
declare
    covered pg_catalog.text;
    %2$s
begin
    %13$s
    %3$s
    "offset" := case when "timestamp" is null and header_keys is null and header_values is null
                      and coalesce(pg_catalog.octet_length(value), 0) operator(pg_catalog.+) coalesce(pg_catalog.octet_length(key), 0) operator(pg_catalog.<=) %4$s
                      and partition operator(pg_catalog.>=) 0 and partition operator(pg_catalog.<=) %5$s
                      and (pg_catalog.strpos(pg_catalog.current_setting('pgq.append', true), %6$s) operator(pg_catalog.>) 0
                           or pg_catalog.pg_advisory_xact_lock_shared(%7$s operator(pg_catalog.|) ((coalesce(pg_catalog.pg_sequence_last_value(%8$s), -1) operator(pg_catalog.+) 1) operator(pg_catalog.&) 1099511627775)) is not null
                          and pg_catalog.set_config('pgq.append', pg_catalog.concat(pg_catalog.current_setting('pgq.append', true), %6$s), true) is not null
                          and (pg_catalog.pg_try_advisory_xact_lock_shared(%15$s) or pgq._wake(%16$s)))
                     then pg_catalog.nextval(%8$s) end;
    if coalesce("offset" operator(pg_catalog.>=) case when pg_catalog.current_setting(%9$s, true) operator(pg_catalog.<>) '' then pg_catalog.current_setting(%9$s, true)::bigint end, true) then
        if "offset" is null then
            if partition operator(pg_catalog.<) 0 or partition operator(pg_catalog.>) %5$s then
                perform pgq._raise_unknown_partition(%10$L, partition);
            end if;
            perform pgq._check_record(value, key, header_keys, header_values, "timestamp", %4$s, %14$s);
            "offset" := pgq._take_offset(%16$s, %11$s, %8$s);
        end if;
        covered := pg_catalog.current_setting(%9$s, true);
        if covered is null or covered operator(pg_catalog.=) '' or "offset" operator(pg_catalog.>=) covered::bigint then
            perform pgq._cover_offset(%11$s, "offset", "offset");
        end if;
    end if;
    insert into pgq_log.%12$s (partition, "offset", "timestamp", key, value, header_keys, header_values)
    values (partition, "offset", pg_catalog.date_trunc('milliseconds', coalesce("timestamp", pg_catalog.clock_timestamp())), key, value, header_keys, header_values);
end
$body$
$procedure$,
        pgq._produce_procedure(topic.name),
        case when one then '' else 'id int; sequence pg_catalog.regclass;' end,
        case when one then 'partition := coalesce(partition, 0);'
             else format('if partition is null then partition := case when key is null then pg_catalog.floor(pg_catalog.random() operator(pg_catalog.*) %1$s)::int'
                         ' else pgq.partition_for_key(key, %1$s) end; end if;'
                         ' id := case when partition operator(pg_catalog.>=) 0 and partition operator(pg_catalog.<) %1$s then (%2$L::int[])[partition operator(pg_catalog.+) 1] end;'
                         ' sequence := pg_catalog.to_regclass(pg_catalog.concat(%3$L, partition, %4$L));',
                         topic.partitions, ids, 'pgq_log.t' || topic_id || '_p', '_offset') end,
        pgq._config_value(topic_id, 'max.message.bytes'),
        topic.partitions - 1,
        case when one then format('%L', ',' || ids[1] || ',') else $$pg_catalog.concat(',', id, ',')$$ end,
        case when one then pgq._append_key(ids[1], 0)::text else '((23::bigint operator(pg_catalog.<<) 58) operator(pg_catalog.|) (id::bigint operator(pg_catalog.<<) 40))' end,
        case when one then format('%L::pg_catalog.regclass', 'pgq_log.t' || topic_id || '_p0_offset') else 'sequence' end,
        case when one then format('%L', 'pgq.covered_' || ids[1]) else $$pg_catalog.concat('pgq.covered_', id)$$ end,
        topic.name,
        case when one then ids[1]::text else 'id' end,
        case when one then format('t%s_p0', topic_id) else format('t%s', topic_id) end,
        concat(case when pgq._config_value(topic_id, 'cleanup.policy') like '%compact%'
                    then format('if key is null then perform pgq._raise_missing_key(%L); end if; ', topic.name) end,
               case when stamped then '"timestamp" := null; ' end,
               case when replicas > 1 then format($$if pg_catalog.current_setting('synchronous_commit') operator(pg_catalog.<>) all ('{off,local}'::pg_catalog.text[])
                                                  then perform pgq._check_replicas(%s); end if;$$, replicas) end),
        case when stamped then 'null' else pgq._config_value(topic_id, 'message.timestamp.after.max.ms') end,
        pgq._park_key(topic_id), topic_id);
    execute format('revoke all on procedure %s from public', pgq._produce_procedure(topic.name));
end
$define$;
