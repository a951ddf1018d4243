-- Give the roles pgq_reader, pgq_producer, pgq_consumer and pgq_admin, as far as they exist, what they may do.
-- Roles belong to the whole server, so they are made by a DBA or `pgq db roles`, never by an upgrade.
--
-- pgq_reader    status views, views of topics, pgq.fetch; nothing of pgq_log
-- pgq_producer  appends: the functions, and INSERT into the topics' root tables, where a trigger holds the append rule
-- pgq_consumer  what a reader may, SELECT on the log (the clients read segments by name), and committing offsets
-- pgq_admin     all of it, and topics: making, changing, deleting; groups: resetting, deleting
create or replace function pgq._grant_roles()
returns void
language plpgsql security definer
set search_path = pgq, pg_catalog, pg_temp
as $$
declare
    anybody constant text[] := '{schema_version,list_topics,describe_topic,_topic_metadata,_upkeep_bytes,_topic_names,_newest_topic,partition_for_key,murmur2,crc32,compound_key,'
                              'compound_keys,split_compound_key,_raise_unknown_partitioner,_check_sub_keys,describe_cluster,acks_status}';
    reading constant text[] := '{fetch,high_watermark,log_start_offset,log_end_offset,offsets_for_times,_text,_json,_headers_json,'
                               '_partition_progress,_partition_bytes,_group_locks,_time_lag,_metrics,maintenance_due,_delayed_records,_delayed_counts,dead_letters}';
    appending constant text[] := '{produce,produce_json,produce_batch,begin_append,begin_flush,init_producer,upkeep,_append_records,'
                                 'produce_delayed,cancel_delayed,_delay_records,'
                                 '_produce_procedure,_produce_target,_headers_object}';
    consuming constant text[] := '{commit_offsets,committed_offsets,_settle,_flush_reads,_await_replicas,_segment_at,_partition_offsets,_least_position,'
                                 '_park,_unpark,_park_key,_held_keys,_wake,join_group,_join_group,_may_end,heartbeat,group_assignment,claim_partitions,change_subscription,keep_partitions,'
                                 'leave_group,end_stuck_members,_busy_members,deliver_due,create_retry_topics,fail_records,_commit_with_failures}';
    managing constant text[] := '{create_topic,create_topic_step,add_partitions,add_partitions_step,delete_topic,delete_topic_step,'
                                'alter_topic_config,delete_records,_plan_trim,check_log,reset_offsets,alter_group_offsets,delete_group,'
                                'delete_group_offsets,redrive_dead_letters,purge_dead_letters}';
    grantee text;
    topic_id int;
begin
    foreach grantee in array array['pgq_reader', 'pgq_producer', 'pgq_consumer', 'pgq_admin'] loop
        continue when to_regrole(grantee) is null;
        execute format('grant usage on schema pgq to %I', grantee);
        perform pgq._grant_functions(grantee, anybody
            || case when grantee <> 'pgq_producer' then reading else '{}' end
            || case when grantee in ('pgq_producer', 'pgq_admin') then appending else '{}' end
            || case when grantee in ('pgq_consumer', 'pgq_admin') then consuming else '{}' end
            || case when grantee = 'pgq_admin' then managing else '{}' end);
        if grantee <> 'pgq_producer' then
            execute format('grant usage on schema pgq_topic to %I', grantee);
            execute format('grant select on pgq.topic_status, pgq.partition_status, pgq.segment_status, pgq.topic_config, pgq.group_status,'
                           ' pgq.group_partition_status, pgq.member_status, pgq.job_status, pgq.delayed_status, pgq.delayed_records to %I', grantee);
            execute format('grant select on all tables in schema pgq_topic to %I', grantee);
            execute format('alter default privileges in schema pgq_topic grant select on tables to %I', grantee);
        end if;
        if grantee <> 'pgq_reader' then
            execute format('grant usage on schema pgq_log to %I', grantee);
        end if;
        if grantee in ('pgq_consumer', 'pgq_admin') then
            execute format('grant select on all tables in schema pgq_log to %I', grantee);
            execute format('alter default privileges in schema pgq_log grant select on tables to %I', grantee);
        end if;
    end loop;
    for topic_id in select t.topic_id from pgq.topic t where t.state = 'ready' loop
        perform pgq._grant_topic(topic_id);
    end loop;
end
$$;
