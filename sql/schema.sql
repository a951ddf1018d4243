-- The whole schema of a fresh install, for reading and for comparing: it is never run, and bodies of functions are left
-- out. Generated from the catalogs by `python scripts/dump_schema.py --write`: do not edit.

create schema pgq;

create schema pgq_log;
comment on schema pgq_log is 'The log itself: one table tree a topic. Written by the rules of pgq.produce only.';

create schema pgq_topic;
comment on schema pgq_topic is 'One read-only view a topic.';

create table pgq.alembic_version (
    version_num character varying(32) not null,
    constraint alembic_version_pkc PRIMARY KEY (version_num)
);

create table pgq.committed_offset (
    consumer_group_id integer not null,
    partition_id integer not null,
    serial bigint not null generated always as identity (minvalue 1 maxvalue 9223372036854775807 start 1 increment 1 cache 1),
    "offset" bigint not null,
    metadata text not null default ''::text,
    committed_at timestamp with time zone not null default now(),
    epoch bigint,
    constraint committed_offset_pkey PRIMARY KEY (consumer_group_id, partition_id, serial),
    constraint committed_offset_consumer_group_id_fkey FOREIGN KEY (consumer_group_id) REFERENCES pgq.consumer_group(consumer_group_id),
    constraint committed_offset_partition_id_fkey FOREIGN KEY (partition_id) REFERENCES pgq.partition(partition_id)
);
comment on column pgq.committed_offset.epoch is 'Under which claim it was committed; null outside of one.';

create table pgq.compaction (
    partition_id integer not null,
    clean_to bigint not null,
    cleaned_at timestamp with time zone not null default clock_timestamp(),
    tombstones bigint not null,
    constraint compaction_pkey PRIMARY KEY (partition_id, clean_to),
    constraint compaction_partition_id_fkey FOREIGN KEY (partition_id) REFERENCES pgq.partition(partition_id) ON DELETE CASCADE
);
comment on table pgq.compaction is 'How far a partition was compacted when: below clean_to there was one record a key, and so many tombstones. They are removed by the first pass that begins delete.retention.ms later.';

create table pgq.consumer_group (
    consumer_group_id integer not null generated always as identity (minvalue 1 maxvalue 2147483647 start 1 increment 1 cache 1),
    name text collate "C" not null,
    created_at timestamp with time zone not null default now(),
    generation bigint not null default 0,
    assignor text collate "C",
    constraint consumer_group_pkey PRIMARY KEY (consumer_group_id),
    constraint consumer_group_name_key UNIQUE (name)
);
comment on column pgq.consumer_group.generation is 'Raised whenever members or what they subscribe to change: everybody then works out the assignment anew.';

create type pgq.consumer_record as (
    partition integer,
    "offset" bigint,
    "timestamp" timestamp with time zone,
    key bytea,
    value bytea,
    header_keys text[],
    header_values bytea[],
    codec smallint
);

create view pgq.delayed_records (
    topic text collate "C",
    partition integer,
    delayed_id text,
    due_at timestamp with time zone,
    created_at timestamp with time zone,
    value_text text,
    key_text text,
    key bytea,
    value bytea,
    header_keys text[],
    header_values bytea[],
    codec smallint
);

create view pgq.delayed_status (
    topic text collate "C",
    records bigint,
    next_due_at timestamp with time zone,
    bytes bigint
);

create table pgq.delivery (
    delivery_id bigint not null,
    search_from timestamp with time zone not null,
    search_serial bigint not null,
    open bigint[] not null,
    constraint delivery_pkey PRIMARY KEY (delivery_id)
);
comment on column pgq.delivery.search_from is 'Whatever was due before, or then with a serial below search_serial, has been delivered, but for what the transactions in open have sent.';
comment on column pgq.delivery.open is 'DELAY locks of transactions that were open when that was seen: once one has ended, the search begins at its time.';

create table pgq.failure_topic (
    topic_id integer not null,
    kind text collate "C" not null,
    group_id text collate "C" not null,
    origin text collate "C" not null,
    constraint failure_topic_pkey PRIMARY KEY (topic_id),
    constraint failure_topic_origin_group_id_kind_key UNIQUE (origin, group_id, kind),
    constraint failure_topic_topic_id_fkey FOREIGN KEY (topic_id) REFERENCES pgq.topic(topic_id) ON DELETE CASCADE,
    constraint failure_topic_kind_check CHECK ((kind = ANY (ARRAY['retry'::text, 'dead letter'::text])))
);
comment on table pgq.failure_topic is 'Topics for the records of origin that the group could not process. No pattern that is subscribed to matches them.';

create table pgq.flush_marker (
    slot integer not null,
    producer_id bigint not null,
    producer_epoch integer not null,
    number bigint not null,
    topic_ids integer[] not null,
    partitions integer[] not null,
    offsets int8multirange[] not null,
    constraint flush_marker_pkey PRIMARY KEY (slot, producer_id, producer_epoch, number)
) partition by LIST (slot);
comment on table pgq.flush_marker is 'Insert-only: which flushes of which producer are in the log, so that none is appended twice.';

create table pgq.flush_marker_0 (
    slot integer not null,
    producer_id bigint not null,
    producer_epoch integer not null,
    number bigint not null,
    topic_ids integer[] not null,
    partitions integer[] not null,
    offsets int8multirange[] not null,
    constraint flush_marker_0_pkey PRIMARY KEY (slot, producer_id, producer_epoch, number)
);

create table pgq.flush_marker_1 (
    slot integer not null,
    producer_id bigint not null,
    producer_epoch integer not null,
    number bigint not null,
    topic_ids integer[] not null,
    partitions integer[] not null,
    offsets int8multirange[] not null,
    constraint flush_marker_1_pkey PRIMARY KEY (slot, producer_id, producer_epoch, number)
);

create table pgq.flush_marker_2 (
    slot integer not null,
    producer_id bigint not null,
    producer_epoch integer not null,
    number bigint not null,
    topic_ids integer[] not null,
    partitions integer[] not null,
    offsets int8multirange[] not null,
    constraint flush_marker_2_pkey PRIMARY KEY (slot, producer_id, producer_epoch, number)
);

create table pgq.flush_marker_3 (
    slot integer not null,
    producer_id bigint not null,
    producer_epoch integer not null,
    number bigint not null,
    topic_ids integer[] not null,
    partitions integer[] not null,
    offsets int8multirange[] not null,
    constraint flush_marker_3_pkey PRIMARY KEY (slot, producer_id, producer_epoch, number)
);

create table pgq.flush_rotation (
    one boolean not null default true,
    rotation bigint not null,
    rotated_at timestamp with time zone not null default now(),
    constraint flush_rotation_pkey PRIMARY KEY (one),
    constraint flush_rotation_one_check CHECK (one)
);
comment on table pgq.flush_rotation is 'Flushes are marked in slot rotation modulo 4. A marker is kept for at least two rotations.';

create table pgq.group_member (
    member_id bigint not null,
    consumer_group_id integer not null,
    group_instance_id text collate "C",
    client_id text not null,
    topics text[] collate "C" not null,
    topology bigint not null,
    session_timeout_ms integer not null,
    pid integer not null,
    client_addr inet,
    joined_at timestamp with time zone not null default clock_timestamp(),
    dead_since timestamp with time zone,
    constraint group_member_pkey PRIMARY KEY (member_id),
    constraint group_member_consumer_group_id_group_instance_id_key UNIQUE (consumer_group_id, group_instance_id),
    constraint group_member_consumer_group_id_fkey FOREIGN KEY (consumer_group_id) REFERENCES pgq.consumer_group(consumer_group_id) ON DELETE CASCADE
);
comment on column pgq.group_member.topology is 'A hash over the subscribed topics and their partitions: another one, another assignment.';
comment on column pgq.group_member.dead_since is 'When a static member was found without a session: it keeps its partitions until session_timeout_ms later.';
CREATE INDEX group_member_ring ON pgq.group_member USING btree (consumer_group_id, member_id);

create view pgq.group_partition_status (
    group_id text collate "C",
    topic text collate "C",
    partition integer,
    committed_offset bigint,
    metadata text,
    committed_at timestamp with time zone,
    log_start_offset bigint,
    high_watermark bigint,
    log_end_offset bigint,
    lag bigint,
    time_lag interval,
    pid integer,
    member_id bigint,
    group_instance_id text collate "C",
    client_id text,
    client_addr inet,
    epoch bigint,
    claimed_at timestamp with time zone
);
comment on view pgq.group_partition_status is 'Groups by partition: committed offset, lag, and the member that holds the partition.';

create view pgq.group_status (
    group_id text collate "C",
    state text,
    assignor text collate "C",
    generation bigint,
    members bigint,
    partitions bigint,
    lag bigint,
    time_lag interval,
    created_at timestamp with time zone
);
comment on view pgq.group_status is 'Consumer groups: state, members, partitions held, lag.';

create table pgq.job (
    job text collate "C" not null,
    runs bigint not null default 0,
    failures bigint not null default 0,
    succeeded_at timestamp with time zone,
    seconds double precision,
    result text,
    failed_at timestamp with time zone,
    error text,
    pid integer not null default pg_backend_pid(),
    application_name text not null default current_setting('application_name'::text),
    constraint job_pkey PRIMARY KEY (job)
);
comment on table pgq.job is 'What the jobs of the service have done last. Written some times a minute, whoever runs them.';

create view pgq.job_status (
    job text collate "C",
    runs bigint,
    failures bigint,
    succeeded_at timestamp with time zone,
    seconds double precision,
    result text,
    failed_at timestamp with time zone,
    error text,
    pid integer,
    application_name text
);
comment on view pgq.job_status is 'Jobs of the service: when they last ran, how long that took, what they did, why they failed.';

create view pgq.member_status (
    group_id text collate "C",
    member_id bigint,
    group_instance_id text collate "C",
    client_id text,
    client_addr inet,
    pid integer,
    joined_at timestamp with time zone,
    alive boolean,
    dead_since timestamp with time zone,
    session_timeout_ms integer,
    topics text[] collate "C",
    partitions bigint,
    assignment jsonb
);
comment on view pgq.member_status is 'Members of consumer groups: session, whether it lives, what it reads and holds.';

create table pgq.partition (
    partition_id integer not null generated always as identity (minvalue 1 maxvalue 262143 start 1 increment 1 cache 1),
    topic_id integer not null,
    partition integer not null,
    sequence regclass not null,
    log_start_offset bigint not null default 0,
    constraint partition_pkey PRIMARY KEY (partition_id),
    constraint partition_topic_id_partition_key UNIQUE (topic_id, partition),
    constraint partition_topic_id_fkey FOREIGN KEY (topic_id) REFERENCES pgq.topic(topic_id)
);

create table pgq.partition_owner (
    consumer_group_id integer not null,
    partition_id integer not null,
    epoch bigint not null,
    member_id bigint,
    leader_epoch integer,
    claimed_at timestamp with time zone not null default clock_timestamp(),
    first_claimed_at timestamp with time zone not null default clock_timestamp(),
    constraint partition_owner_pkey PRIMARY KEY (consumer_group_id, partition_id),
    constraint partition_owner_consumer_group_id_fkey FOREIGN KEY (consumer_group_id) REFERENCES pgq.consumer_group(consumer_group_id) ON DELETE CASCADE,
    constraint partition_owner_partition_id_fkey FOREIGN KEY (partition_id) REFERENCES pgq.partition(partition_id) ON DELETE CASCADE
);
comment on column pgq.partition_owner.leader_epoch is 'Under which leader it was claimed: what was read from another may be missing in the log of this one.';
comment on column pgq.partition_owner.first_claimed_at is 'Since when the group reads it: partitions that the topic was given later are read from their beginning.';
comment on table pgq.partition_owner is 'Who claimed a partition last, and how often it was claimed: a commit under an older epoch is refused.';

create view pgq.partition_status (
    topic text collate "C",
    partition integer,
    log_start_offset bigint,
    high_watermark bigint,
    log_end_offset bigint,
    records bigint,
    bytes bigint,
    segments bigint,
    producers bigint,
    producer_pid integer,
    producer_application text,
    producer_age interval,
    producer_prepared text
);
comment on view pgq.partition_status is 'Partitions: log start, high watermark, log end, records (offsets given out that are not below the log start, those of records that compaction has removed included), bytes on disk, oldest open producer.';

create table pgq.producer (
    transactional_id text collate "C" not null,
    producer_id bigint not null,
    producer_epoch integer not null default 0,
    started_at timestamp with time zone not null default now(),
    constraint producer_pkey PRIMARY KEY (transactional_id),
    constraint producer_producer_id_key UNIQUE (producer_id)
);
comment on table pgq.producer is 'Producers with a transactional_id: who comes later raises the epoch and fences who was before.';

create type pgq.record_metadata as (
    partition integer,
    "offset" bigint
);

create table pgq.segment (
    partition_id integer not null,
    base_offset bigint not null,
    end_offset bigint not null,
    created_at timestamp with time zone not null default now(),
    bytes bigint,
    constraint segment_pkey PRIMARY KEY (partition_id, base_offset),
    constraint segment_partition_id_fkey FOREIGN KEY (partition_id) REFERENCES pgq.partition(partition_id)
);
comment on column pgq.segment.bytes is 'On disk, once no transaction can add to it any more; null before that.';
CREATE INDEX segment_open ON pgq.segment USING btree (partition_id) WHERE (bytes IS NULL);

create view pgq.segment_status (
    topic text collate "C",
    partition integer,
    base_offset bigint,
    end_offset bigint,
    active boolean,
    bytes bigint,
    relation text,
    created_at timestamp with time zone
);
comment on view pgq.segment_status is 'Segments: offsets, bytes on disk, whether appends go to it now.';

create table pgq.settled_dead_letter (
    partition_id integer not null,
    "offset" bigint not null,
    outcome text collate "C" not null,
    settled_at timestamp with time zone not null default clock_timestamp(),
    constraint settled_dead_letter_pkey PRIMARY KEY (partition_id, "offset"),
    constraint settled_dead_letter_partition_id_fkey FOREIGN KEY (partition_id) REFERENCES pgq.partition(partition_id) ON DELETE CASCADE,
    constraint settled_dead_letter_outcome_check CHECK ((outcome = ANY (ARRAY['redriven'::text, 'purged'::text])))
);
comment on table pgq.settled_dead_letter is 'Records of dead letter topics that were sent back or given up: they are not listed. Removed with the log start.';

create table pgq.skipped_range (
    partition_id integer not null,
    from_offset bigint not null,
    to_offset bigint not null,
    constraint skipped_range_pkey PRIMARY KEY (partition_id, from_offset),
    constraint skipped_range_partition_id_fkey FOREIGN KEY (partition_id) REFERENCES pgq.partition(partition_id)
);
comment on table pgq.skipped_range is 'from_offset to to_offset - 1 were never given out: a segment was rolled.';

create table pgq.topic (
    topic_id integer not null generated always as identity (minvalue 1 maxvalue 2147483647 start 1 increment 1 cache 1),
    name text collate "C" not null,
    partitions integer not null,
    config jsonb not null default '{}'::jsonb,
    created_at timestamp with time zone not null default now(),
    state text collate "C" not null default 'ready'::text,
    constraint topic_pkey PRIMARY KEY (topic_id),
    constraint topic_name_key UNIQUE (name),
    constraint topic_state CHECK ((state = ANY (ARRAY['creating'::text, 'ready'::text, 'deleting'::text])))
);
comment on column pgq.topic.partitions is 'How many there are to be used. pgq.partition may hold more: of a topic that is deleted, or just being given more.';
comment on column pgq.topic.config is 'Only what differs from the defaults in pgq.topic_config.';
comment on column pgq.topic.state is 'Only a topic that is ready can be used; the others are made or deleted in steps.';

create table pgq.topic_config (
    key text collate "C" not null,
    default_value jsonb not null,
    minimum bigint,
    maximum bigint,
    description text not null,
    choices text[],
    constraint topic_config_pkey PRIMARY KEY (key),
    constraint topic_config_values CHECK (((choices IS NULL) = ((minimum IS NOT NULL) AND (maximum IS NOT NULL))))
);
comment on column pgq.topic_config.choices is 'The values of a key that takes a word; minimum and maximum are those of a number.';
comment on table pgq.topic_config is 'The configuration keys that a topic accepts, their defaults and bounds.';

create type pgq.topic_description as (
    topic_id integer,
    name text,
    partitions integer,
    config jsonb
);

create view pgq.topic_status (
    topic text collate "C",
    topic_id integer,
    state text collate "C",
    partitions integer,
    records bigint,
    bytes bigint,
    segments bigint,
    skew numeric,
    created_at timestamp with time zone,
    config jsonb
);
comment on view pgq.topic_status is 'Topics: state, partitions, records, bytes on disk, skew, configuration.';

create table pgq_log.delayed (
    due_at timestamp with time zone not null,
    serial bigint not null,
    topic_id integer not null,
    partition integer not null,
    "timestamp" timestamp with time zone,
    key bytea,
    value bytea,
    header_keys text[],
    header_values bytea[],
    codec smallint,
    created_at timestamp with time zone not null default clock_timestamp()
);
comment on table pgq_log.delayed is 'Records that are appended when they are due. Itself empty: they stand in tables like it, one an hour of due_at, which are dropped when all their records are gone.';

create sequence pgq_log.delayed_serial (
    last_value bigint not null,
    log_cnt bigint not null,
    is_called boolean not null
);

create function pgq._append_key(partition_id integer, base bigint)
    returns bigint
    language plpgsql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._append_key(integer,bigint) from public;

create function pgq._append_records(topics text[], partitions integer[], partitioners text[], timestamps timestamp with time zone[], keys bytea[], "values" bytea[], header_records integer[], header_keys text[], header_values bytea[])
    returns SETOF pgq.record_metadata
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._append_records(text[],integer[],text[],timestamp with time zone[],bytea[],bytea[],integer[],text[],bytea[]) from public;

create function pgq._apply_retention(partition_id integer, at timestamp with time zone DEFAULT clock_timestamp(), lock_timeout_ms integer DEFAULT 10)
    returns text
    language plpgsql volatile security definer
    set lock_timeout = 0
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._apply_retention(integer,timestamp with time zone,integer) from public;

create function pgq._await_replicas(flushed pg_lsn, replicas integer, timeout_ms integer)
    returns boolean
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._await_replicas(pg_lsn,integer,integer) from public;

create function pgq._await_return(consumer_group_ids integer[])
    returns boolean
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._await_return(integer[]) from public;

create function pgq._beat(member_id bigint, session_timeout_ms integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._beat(bigint,integer) from public;

create function pgq._beat_key(member_id bigint, beat bigint)
    returns bigint
    language sql immutable strict;
revoke execute on function pgq._beat_key(bigint,bigint) from public;

create function pgq._beat_now(session_timeout_ms integer)
    returns bigint
    language sql volatile strict
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._beat_now(integer) from public;

create function pgq._begin_compaction(partition_id integer)
    returns boolean
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._begin_compaction(integer) from public;

create function pgq._begin_delay()
    returns timestamp with time zone
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._begin_delay() from public;

create function pgq._begin_delete(name text)
    returns integer
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._begin_delete(text) from public;

create function pgq._begin_topic(name text, partitions integer, config jsonb)
    returns integer
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._begin_topic(text,integer,jsonb) from public;

create function pgq._bump(consumer_group_id integer)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._bump(integer) from public;

create function pgq._busy_members(member_id bigint)
    returns TABLE(pid integer, session_timeout_ms integer)
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._busy_members(bigint) from public;

create function pgq._check_fetch(topic_id integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_fetch(integer) from public;

create function pgq._check_group_id(group_id text)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_group_id(text) from public;

create function pgq._check_leader()
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_leader() from public;

create function pgq._check_partitions(partitions integer, most integer)
    returns void
    language plpgsql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_partitions(integer,integer) from public;

create function pgq._check_record(value bytea, key bytea, header_keys text[], header_values bytea[], "timestamp" timestamp with time zone, limit_bytes bigint, after_max_ms bigint)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_record(bytea,bytea,text[],bytea[],timestamp with time zone,bigint,bigint) from public;

create function pgq._check_replicas(replicas integer)
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_replicas(integer) from public;

create function pgq._check_sub_keys(n integer)
    returns void
    language plpgsql immutable parallel safe
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_sub_keys(integer) from public;

create function pgq._check_timestamp("timestamp" timestamp with time zone, after_max_ms bigint)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_timestamp(timestamp with time zone,bigint) from public;

create function pgq._check_topic_config(config jsonb)
    returns jsonb
    language plpgsql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_topic_config(jsonb) from public;

create function pgq._check_topic_name(name text)
    returns void
    language plpgsql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._check_topic_name(text) from public;

create function pgq._claim_key(consumer_group_id integer, partition_id integer)
    returns bigint
    language sql immutable strict;
revoke execute on function pgq._claim_key(integer,integer) from public;

create function pgq._clear_segment(partition_id integer, base_offset bigint, lock_timeout_ms integer)
    returns boolean
    language plpgsql volatile security definer
    set lock_timeout = 0
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._clear_segment(integer,bigint,integer) from public;

create function pgq._commit_with_failures(group_id text, topics text[], partitions integer[], offsets bigint[], metadata text[], member_id bigint, epochs bigint[], failed_topics text[], failed_partitions integer[], failed_offsets bigint[], due_ats timestamp with time zone[], errors text[], attempts integer[], replayed boolean[], OUT moved integer, OUT repeated integer)
    returns record
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._commit_with_failures(text,text[],integer[],bigint[],text[],bigint,bigint[],text[],integer[],bigint[],timestamp with time zone[],text[],integer[],boolean[]) from public;

create function pgq._compaction_copies(partition_id integer DEFAULT NULL::integer)
    returns TABLE(partition_id integer, name text)
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._compaction_copies(integer) from public;

create function pgq._compaction_due(after integer DEFAULT 0, at timestamp with time zone DEFAULT clock_timestamp())
    returns TABLE(partition_id integer, due boolean)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._compaction_due(integer,timestamp with time zone) from public;

create function pgq._compaction_holders(partition_id integer, bases bigint[])
    returns text[]
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._compaction_holders(integer,bigint[]) from public;

create function pgq._compaction_key(partition_id integer)
    returns bigint
    language sql immutable strict;
revoke execute on function pgq._compaction_key(integer) from public;

create function pgq._compaction_plan(partition_id integer)
    returns TABLE(bases bigint[], end_offset bigint, removable_below bigint, records bigint, kept bigint, tombstones bigint)
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._compaction_plan(integer) from public;

create function pgq._compaction_state(part pgq.partition, at timestamp with time zone, OUT end_offset bigint, OUT clean_to bigint, OUT removable_below bigint, OUT due boolean)
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._compaction_state(pgq.partition,timestamp with time zone) from public;

create function pgq._compaction_survivors(partition_id integer, bases bigint[], removable_below bigint)
    returns text
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._compaction_survivors(integer,bigint[],bigint) from public;

create function pgq._config_value(topic_id integer, key text)
    returns text
    language sql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._config_value(integer,text) from public;

create function pgq._cover_offset(partition_id integer, first_offset bigint, last_offset bigint)
    returns bigint
    language plpgsql volatile security definer
    set lock_timeout = 10s
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._cover_offset(integer,bigint,bigint) from public;

create function pgq._create_compaction_copy(partition_id integer, base bigint, end_offset bigint)
    returns text
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._create_compaction_copy(integer,bigint,bigint) from public;

create function pgq._create_partition(topic_id integer, partition integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._create_partition(integer,integer) from public;

create function pgq._create_partitions(topic_id integer, partitions integer)
    returns integer
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._create_partitions(integer,integer) from public;

create function pgq._dead_letter_rows(partition_ids integer[], offsets bigint[])
    returns TABLE(partition_id integer, "offset" bigint, "timestamp" timestamp with time zone, key bytea, value bytea, header_keys text[], header_values bytea[], codec smallint)
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._dead_letter_rows(integer[],bigint[]) from public;

create function pgq._define_produce(topic_id integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._define_produce(integer) from public;

create function pgq._define_topic(topic_id integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._define_topic(integer) from public;

create function pgq._define_view(topic_id integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._define_view(integer) from public;

create function pgq._delay_bucket(due_at timestamp with time zone)
    returns text
    language plpgsql volatile
    set client_min_messages = warning
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._delay_bucket(timestamp with time zone) from public;

create function pgq._delay_buckets(after timestamp with time zone DEFAULT NULL::timestamp with time zone, before timestamp with time zone DEFAULT NULL::timestamp with time zone)
    returns TABLE(bucket text, hour_ends_at timestamp with time zone)
    language sql stable;
revoke execute on function pgq._delay_buckets(timestamp with time zone,timestamp with time zone) from public;

create function pgq._delay_key(at timestamp with time zone)
    returns bigint
    language sql immutable;
revoke execute on function pgq._delay_key(timestamp with time zone) from public;

create function pgq._delay_name(due_at timestamp with time zone)
    returns text
    language sql immutable;
revoke execute on function pgq._delay_name(timestamp with time zone) from public;

create function pgq._delay_records(topics text[], partitions integer[], partitioners text[], timestamps timestamp with time zone[], keys bytea[], "values" bytea[], header_records integer[], header_keys text[], header_values bytea[], due_ats timestamp with time zone[])
    returns TABLE(delayed_id text, partition integer, due_at timestamp with time zone)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._delay_records(text[],integer[],text[],timestamp with time zone[],bytea[],bytea[],integer[],text[],bytea[],timestamp with time zone[]) from public;

create function pgq._delay_times()
    returns TABLE(key bigint, at timestamp with time zone)
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._delay_times() from public;

create function pgq._delayed_counts()
    returns TABLE(topic_id integer, records bigint)
    language plpgsql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._delayed_counts() from public;

create function pgq._delayed_records()
    returns SETOF pgq_log.delayed
    language plpgsql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._delayed_records() from public;

create function pgq._deliver(buckets text[], nths integer[], due_ats timestamp with time zone[], serials bigint[], topic_ids integer[], partitions integer[], OUT records integer, OUT all_taken boolean)
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._deliver(text[],integer[],timestamp with time zone[],bigint[],integer[],integer[]) from public;

create function pgq._describe_dead_letters(partition_ids integer[], offsets bigint[])
    returns TABLE(nth bigint, topic text, group_id text, dead_letter_topic text, partition integer, "offset" bigint, origin_partition integer, origin_offset bigint, failed_at timestamp with time zone, attempts integer, redriven integer, first_error text, last_error text, key bytea, value bytea, codec smallint, header_keys text[], header_values bytea[])
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._describe_dead_letters(integer[],bigint[]) from public;

create function pgq._drop_compaction_copies(partition_id integer, lock_timeout_ms integer DEFAULT 200)
    returns boolean
    language plpgsql volatile security definer
    set lock_timeout = 0
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._drop_compaction_copies(integer,integer) from public;

create function pgq._drop_delay_buckets(before timestamp with time zone)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._drop_delay_buckets(timestamp with time zone) from public;

create function pgq._drop_segment(partition_id integer, base_offset bigint, lock_timeout_ms integer DEFAULT 50)
    returns boolean
    language plpgsql volatile security definer
    set lock_timeout = 0
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._drop_segment(integer,bigint,integer) from public;

create function pgq._drop_step(topic_id integer)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._drop_step(integer) from public;

create function pgq._droppable()
    returns TABLE(partition_id integer, base_offset bigint, tree text, leaf text, state text, holders text[])
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._droppable() from public;

create function pgq._duration(value text)
    returns interval
    language plpgsql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._duration(text) from public;

create function pgq._end_compaction(partition_id integer, end_offset bigint, at timestamp with time zone, tombstones bigint)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._end_compaction(integer,bigint,timestamp with time zone,bigint) from public;

create function pgq._expired(part pgq.partition, at timestamp with time zone, OUT log_start bigint, OUT roll_first boolean)
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._expired(pgq.partition,timestamp with time zone) from public;

create function pgq._failed_at(header_keys text[], header_values bytea[], "timestamp" timestamp with time zone)
    returns timestamp with time zone
    language sql immutable;
revoke execute on function pgq._failed_at(text[],bytea[],timestamp with time zone) from public;

create function pgq._failure_headers(keys text[], "values" bytea[], group_id text, topic text, partition integer, "offset" bigint, "timestamp" timestamp with time zone, is_retry boolean, due_at timestamp with time zone, error text, attempts integer, OUT header_keys text[], OUT header_values bytea[])
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._failure_headers(text[],bytea[],text,text,integer,bigint,timestamp with time zone,boolean,timestamp with time zone,text,integer) from public;

create function pgq._failure_target(origin text, group_id text, kind text, key bytea, OUT topic_id integer, OUT partition integer)
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._failure_target(text,text,text,bytea) from public;

create function pgq._failure_topic_name(topic text, group_id text, kind text)
    returns text
    language sql immutable;
revoke execute on function pgq._failure_topic_name(text,text,text) from public;

create function pgq._fence_partitions(consumer_group_id integer, partition_ids integer[])
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._fence_partitions(integer,integer[]) from public;

create function pgq._find_dead_letters(topic text, group_id text, error text, since timestamp with time zone, until timestamp with time zone, most integer)
    returns TABLE(topic_id integer, partition_id integer, "offset" bigint, failed_at timestamp with time zone)
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._find_dead_letters(text,text,text,timestamp with time zone,timestamp with time zone,integer) from public;

create function pgq._finish_topic(topic_id integer, partitions integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._finish_topic(integer,integer) from public;

create function pgq._first_delayed(search_from timestamp with time zone, search_serial bigint, OUT due_at timestamp with time zone, OUT serial bigint)
    returns record
    language plpgsql stable
    set enable_bitmapscan = off
    set enable_seqscan = off
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._first_delayed(timestamp with time zone,bigint) from public;

create function pgq._first_offset(partition_id integer, from_offset bigint, to_offset bigint, "timestamp" timestamp with time zone DEFAULT NULL::timestamp with time zone)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._first_offset(integer,bigint,bigint,timestamp with time zone) from public;

create function pgq._first_record(partition_id integer, from_offset bigint, to_offset bigint, since timestamp with time zone DEFAULT NULL::timestamp with time zone, OUT "offset" bigint, OUT "timestamp" timestamp with time zone)
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._first_record(integer,bigint,bigint,timestamp with time zone) from public;

create function pgq._flush_reads(partition_id integer, watermark boolean, OUT high_watermark bigint, OUT replicas integer, OUT flushed pg_lsn)
    returns record
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._flush_reads(integer,boolean) from public;

create function pgq._flush_wal()
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._flush_wal() from public;

create function pgq._fresh_base(partition_id integer, base bigint, "offset" bigint)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._fresh_base(integer,bigint,bigint) from public;

create function pgq._grant_functions(grantee text, names text[])
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._grant_functions(text,text[]) from public;

create function pgq._grant_roles()
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._grant_roles() from public;

create function pgq._grant_topic(topic_id integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._grant_topic(integer) from public;

create function pgq._group(group_id text)
    returns integer
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._group(text) from public;

create function pgq._group_locks()
    returns TABLE(member_id bigint, consumer_group_id integer, partition_id integer, pid integer)
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._group_locks() from public;

create function pgq._has_members(consumer_group_id integer)
    returns boolean
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._has_members(integer) from public;

create function pgq._header_number(keys text[], "values" bytea[], name text, maximum bigint)
    returns bigint
    language plpgsql immutable;
revoke execute on function pgq._header_number(text[],bytea[],text,bigint) from public;

create function pgq._header_text(keys text[], "values" bytea[], name text)
    returns text
    language sql immutable;
revoke execute on function pgq._header_text(text[],bytea[],text) from public;

create function pgq._headers_json(keys text[], "values" bytea[])
    returns jsonb
    language sql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._headers_json(text[],bytea[]) from public;

create function pgq._headers_object(headers jsonb)
    returns jsonb
    language plpgsql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._headers_object(jsonb) from public;

create function pgq._held_keys(tag integer)
    returns bigint[]
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._held_keys(integer) from public;

create function pgq._held_since(tree text)
    returns timestamp with time zone
    language sql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._held_since(text) from public;

create function pgq._high_watermark(partition_id integer, sequence regclass)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._high_watermark(integer,regclass) from public;

create function pgq._identities_behind(of_table text DEFAULT NULL::text)
    returns TABLE(relation text, "column" name, sequence text, next_value bigint, greatest_value bigint)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._identities_behind(text) from public;

create function pgq._in_sync_replicas()
    returns integer
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._in_sync_replicas() from public;

create function pgq._index_compaction_copy(name text)
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._index_compaction_copy(text) from public;

create function pgq._is_alive(member_id bigint)
    returns boolean
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._is_alive(bigint) from public;

create function pgq._is_locked(key bigint)
    returns boolean
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._is_locked(bigint) from public;

create function pgq._is_younger(leaf text, since timestamp with time zone)
    returns boolean
    language plpgsql volatile
    set enable_seqscan = off
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._is_younger(text,timestamp with time zone) from public;

create function pgq._join_group(group_id text, topics text[], assignor text, session_timeout_ms integer, group_instance_id text, client_id text, previous_member_id bigint, OUT member_id bigint, OUT generation bigint, OUT channel text, OUT replaced integer)
    returns record
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._join_group(text,text[],text,integer,text,text,bigint) from public;

create function pgq._json(bytes bytea)
    returns jsonb
    language plpgsql immutable strict;
revoke execute on function pgq._json(bytea) from public;

create function pgq._last_offset(leaf text, from_offset bigint)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._last_offset(text,bigint) from public;

create function pgq._lead(jobs integer, session_timeout_ms integer)
    returns boolean
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._lead(integer,integer) from public;

create function pgq._leader_epoch()
    returns integer
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._leader_epoch() from public;

create function pgq._least_position(partition_id integer, log_start_offset bigint)
    returns bigint
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._least_position(integer,bigint) from public;

create function pgq._lock_empty_group(group_id text)
    returns integer
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._lock_empty_group(text) from public;

create function pgq._lock_group(group_id text)
    returns integer
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._lock_group(text) from public;

create function pgq._lock_holders(tables oid[])
    returns text
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._lock_holders(oid[]) from public;

create function pgq._make_segment(partition_id integer, base bigint)
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._make_segment(integer,bigint) from public;

create function pgq._may_end(role_id oid)
    returns boolean
    language sql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._may_end(oid) from public;

create function pgq._member_key(member_id bigint)
    returns bigint
    language sql immutable strict;
revoke execute on function pgq._member_key(bigint) from public;

create function pgq._metrics()
    returns TABLE(metric text, topic text, partition integer, consumergroup text, value double precision)
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._metrics() from public;

create function pgq._named_partitions(topics text[], partitions integer[])
    returns TABLE(partition_id integer, topic text, partition integer, log_start_offset bigint, nth bigint)
    language plpgsql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._named_partitions(text[],integer[]) from public;

create function pgq._newest_topic()
    returns integer
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._newest_topic() from public;

create function pgq._next_due_ms()
    returns bigint
    language plpgsql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._next_due_ms() from public;

create function pgq._next_offset(sequence regclass)
    returns bigint
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._next_offset(regclass) from public;

create function pgq._next_offsets(after integer)
    returns TABLE(partition_id integer, next_offset bigint)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._next_offsets(integer) from public;

create function pgq._note_held(held integer[])
    returns TABLE(partition_id integer, held_s double precision)
    language plpgsql volatile security definer
    set lock_timeout = 50ms
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._note_held(integer[]) from public;

create function pgq._offsets_behind(of_partition integer DEFAULT NULL::integer)
    returns TABLE(topic text, partition integer, partition_id integer, sequence text, next_offset bigint, least_offset bigint, because text)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._offsets_behind(integer) from public;

create function pgq._open_compaction_plan(partition_id integer, at timestamp with time zone DEFAULT clock_timestamp())
    returns boolean
    language plpgsql volatile
    set client_min_messages = warning
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._open_compaction_plan(integer,timestamp with time zone) from public;

create function pgq._oversized_segments()
    returns TABLE(topic text, partition integer, partition_id integer, bytes bigint, segment_bytes bigint)
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._oversized_segments() from public;

create function pgq._park(topic_ids integer[], interrupted boolean DEFAULT false, OUT held integer[], OUT busy boolean)
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._park(integer[],boolean) from public;

create function pgq._park_key(topic_id integer)
    returns bigint
    language sql immutable strict;
revoke execute on function pgq._park_key(integer) from public;

create function pgq._partition(topic text, partition integer)
    returns pgq.partition
    language plpgsql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._partition(text,integer) from public;

create function pgq._partition_bytes(partition_id integer, base_offset bigint DEFAULT NULL::bigint)
    returns bigint
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._partition_bytes(integer,bigint) from public;

create function pgq._partition_offsets(partition_ids integer[])
    returns TABLE(log_start_offset bigint, log_end_offset bigint)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._partition_offsets(integer[]) from public;

create function pgq._partition_progress()
    returns TABLE(partition_id integer, next_offset bigint, high_watermark bigint, producers bigint, producer_pid integer, producer_application text, producer_since timestamp with time zone, producer_prepared text)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._partition_progress() from public;

create function pgq._peek_offset(sequence regclass)
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._peek_offset(regclass) from public;

create function pgq._place_records(topics text[], partitions integer[], partitioners text[], timestamps timestamp with time zone[], keys bytea[], "values" bytea[], header_records integer[], header_keys text[], header_values bytea[], OUT topic_ids integer[], OUT chosen integer[], OUT stamps timestamp with time zone[])
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._place_records(text[],integer[],text[],timestamp with time zone[],bytea[],bytea[],integer[],text[],bytea[]) from public;

create function pgq._plan_trim(topic text, partitions integer[], spec text, value text)
    returns TABLE(partition integer, log_start_offset bigint, new_log_start_offset bigint, records bigint)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._plan_trim(text,integer[],text,text) from public;

create function pgq._produce_procedure(topic text)
    returns text
    language sql immutable;
revoke execute on function pgq._produce_procedure(text) from public;

create function pgq._produce_target(topic text)
    returns text
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._produce_target(text) from public;

create function pgq._purge(topic text, group_id text, error text, since timestamp with time zone, until timestamp with time zone, most integer, execute boolean)
    returns TABLE(partition_id integer, "offset" bigint)
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._purge(text,text,text,timestamp with time zone,timestamp with time zone,integer,boolean) from public;

create function pgq._raise_missing_key(topic text)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._raise_missing_key(text) from public;

create function pgq._raise_offset_out_of_range(partition_id integer, "offset" bigint, log_start_offset bigint, log_end_offset bigint)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._raise_offset_out_of_range(integer,bigint,bigint,bigint) from public;

create function pgq._raise_topic_exists(name text)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._raise_topic_exists(text) from public;

create function pgq._raise_unknown_partition(topic text, partition integer)
    returns void
    language plpgsql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._raise_unknown_partition(text,integer) from public;

create function pgq._raise_unknown_partitioner(partitioner text)
    returns integer
    language plpgsql immutable parallel safe
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._raise_unknown_partitioner(text) from public;

create function pgq._read_compaction_step()
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._read_compaction_step() from public;

create function pgq._reads_are_safe(partition_id integer)
    returns boolean
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._reads_are_safe(integer) from public;

create function pgq._record_at(partition_id integer, "offset" bigint)
    returns pgq.consumer_record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._record_at(integer,bigint) from public;

create function pgq._record_bytes(value bytea, key bytea, header_keys text[], header_values bytea[])
    returns bigint
    language sql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._record_bytes(bytea,bytea,text[],bytea[]) from public;

create function pgq._redrive(topic text, group_id text, error text, since timestamp with time zone, until timestamp with time zone, most integer, execute boolean)
    returns TABLE(partition_id integer, "offset" bigint, retry_topic text)
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._redrive(text,text,text,timestamp with time zone,timestamp with time zone,integer,boolean) from public;

create function pgq._redriven_headers(INOUT keys text[], INOUT "values" bytea[])
    returns record
    language plpgsql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._redriven_headers(text[],bytea[]) from public;

create function pgq._refuse_direct_insert()
    returns trigger
    language plpgsql volatile;
revoke execute on function pgq._refuse_direct_insert() from public;

create function pgq._removable(removable_below bigint)
    returns text
    language sql immutable;
revoke execute on function pgq._removable(bigint) from public;

create function pgq._remove_dead(consumer_group_id integer)
    returns boolean
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._remove_dead(integer) from public;

create function pgq._remove_dead_members()
    returns integer
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._remove_dead_members() from public;

create function pgq._renew_tree(topic_id integer, partition integer, base bigint)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._renew_tree(integer,integer,bigint) from public;

create function pgq._report_job(job text, seconds double precision, result text, error text, runs bigint)
    returns void
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._report_job(text,double precision,text,text,bigint) from public;

create function pgq._restore_session_timeouts()
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._restore_session_timeouts() from public;

create function pgq._retention_due(after integer, at timestamp with time zone DEFAULT clock_timestamp())
    returns TABLE(partition_id integer, due boolean, upkeep_due boolean)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._retention_due(integer,timestamp with time zone) from public;

create function pgq._roll_segment(partition_id integer, lock_timeout_ms integer DEFAULT 10)
    returns boolean
    language plpgsql volatile security definer
    set lock_timeout = 0
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._roll_segment(integer,integer) from public;

create function pgq._run(partition_id integer, from_offset bigint, to_offset bigint, OUT run_end bigint, OUT window_end bigint)
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._run(integer,bigint,bigint) from public;

create function pgq._segment_at(partition_id integer, "offset" bigint, OUT base_offset bigint, OUT end_offset bigint)
    returns record
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._segment_at(integer,bigint) from public;

create function pgq._segment_bytes(topic_id integer)
    returns bigint
    language sql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._segment_bytes(integer) from public;

create function pgq._segment_name(topic_id integer, partition integer, base_offset bigint)
    returns text
    language sql immutable;
revoke execute on function pgq._segment_name(integer,integer,bigint) from public;

create function pgq._segment_span_ms(leaf text)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._segment_span_ms(text) from public;

create function pgq._segment_width(partition_id integer, base bigint)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._segment_width(integer,bigint) from public;

create function pgq._segments_between(partition_id integer, from_offset bigint, to_offset bigint)
    returns TABLE(relation text, low bigint, high bigint)
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._segments_between(integer,bigint,bigint) from public;

create function pgq._segments_due(after integer)
    returns TABLE(partition_id integer, due boolean)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._segments_due(integer) from public;

create function pgq._session_timeouts()
    returns text[]
    language sql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._session_timeouts() from public;

create function pgq._set_session_timeouts(session_timeout_ms integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._set_session_timeouts(integer) from public;

create function pgq._settle(partition_id integer, "offset" bigint, OUT next_offset bigint, OUT high_watermark bigint)
    returns record
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._settle(integer,bigint) from public;

create function pgq._settle_dead_letters(partition_ids integer[], offsets bigint[], outcome text)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._settle_dead_letters(integer[],bigint[],text) from public;

create function pgq._settled_to(partition_id integer)
    returns bigint
    language plpgsql volatile
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_sort = off
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._settled_to(integer) from public;

create function pgq._silent_since(member pgq.group_member)
    returns timestamp with time zone
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._silent_since(pgq.group_member) from public;

create function pgq._store_offsets(consumer_group_id integer, partition_ids integer[], offsets bigint[], metadata text[] DEFAULT NULL::text[])
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._store_offsets(integer,integer[],bigint[],text[]) from public;

create function pgq._swap_compacted(partition_id integer, bases bigint[], end_offset bigint, lock_timeout_ms integer DEFAULT 50)
    returns text
    language plpgsql volatile security definer
    set lock_timeout = 0
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._swap_compacted(integer,bigint[],bigint,integer) from public;

create function pgq._synchronous_standbys(OUT method text, OUT wanted integer, OUT names text[])
    returns record
    language plpgsql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._synchronous_standbys() from public;

create function pgq._take_dead_letters(topic text, group_id text, error text, since timestamp with time zone, until timestamp with time zone, most integer, execute boolean)
    returns TABLE(partition_id integer, "offset" bigint, failed_at timestamp with time zone)
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._take_dead_letters(text,text,text,timestamp with time zone,timestamp with time zone,integer,boolean) from public;

create function pgq._take_member_id(consumer_group_id integer, member_id bigint)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._take_member_id(integer,bigint) from public;

create function pgq._take_offset(topic_id integer, partition_id integer, sequence regclass)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._take_offset(integer,integer,regclass) from public;

create function pgq._text(bytes bytea)
    returns text
    language plpgsql immutable strict;
revoke execute on function pgq._text(bytea) from public;

create function pgq._time_lag(partition_id integer, from_offset bigint, to_offset bigint)
    returns interval
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._time_lag(integer,bigint,bigint) from public;

create function pgq._topic_id(name text)
    returns integer
    language plpgsql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._topic_id(text) from public;

create function pgq._topic_metadata(topic text, OUT topic_id integer, OUT partition_ids integer[], OUT max_message_bytes bigint, OUT compression_type text, OUT timestamp_after_max_ms bigint, OUT needs_key boolean)
    returns record
    language plpgsql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._topic_metadata(text) from public;

create function pgq._topic_names()
    returns SETOF text
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._topic_names() from public;

create function pgq._topology(topics text[])
    returns bigint
    language sql stable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._topology(text[]) from public;

create function pgq._unpark(held integer[], notified boolean)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._unpark(integer[],boolean) from public;

create function pgq._unsettled_dead_letters(partition_id integer, error text, since timestamp with time zone, until timestamp with time zone, most integer)
    returns TABLE("offset" bigint, failed_at timestamp with time zone)
    language plpgsql volatile
    set enable_bitmapscan = off
    set enable_hashjoin = off
    set enable_sort = off
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._unsettled_dead_letters(integer,text,timestamp with time zone,timestamp with time zone,integer) from public;

create function pgq._upkeep_bytes(topic_id integer)
    returns bigint
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._upkeep_bytes(integer) from public;

create function pgq._view_name(topic_id integer, name text)
    returns text
    language sql immutable
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._view_name(integer,text) from public;

create function pgq._wake(topic_id integer)
    returns boolean
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._wake(integer) from public;

create function pgq._wake_group(consumer_group_id integer)
    returns void
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._wake_group(integer) from public;

create function pgq._watermark_below(partition_id integer, next_offset bigint)
    returns bigint
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq._watermark_below(integer,bigint) from public;

create function pgq.acks_status()
    returns TABLE(synchronous_standby_names text, in_sync_replicas integer, acks_all text, warnings text[])
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.acks_status() from public;

create function pgq.add_partitions(name text, partitions integer)
    returns pgq.topic_description
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.add_partitions(text,integer) from public;

create function pgq.add_partitions_step(name text, partitions integer)
    returns integer
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.add_partitions_step(text,integer) from public;

create function pgq.alter_group_offsets(group_id text, topics text[], partitions integer[], offsets bigint[], metadata text[] DEFAULT NULL::text[])
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.alter_group_offsets(text,text[],integer[],bigint[],text[]) from public;

create function pgq.alter_topic_config(name text, config jsonb)
    returns pgq.topic_description
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.alter_topic_config(text,jsonb) from public;

create function pgq.begin_append(topic_ids integer[], partitions integer[], counts integer[])
    returns TABLE(topic_id integer, partition integer, partition_id integer, offsets bigint[], upkeep_due boolean)
    language plpgsql volatile security definer
    set plan_cache_mode = force_generic_plan
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.begin_append(integer[],integer[],integer[]) from public;

create function pgq.begin_flush(topic_ids integer[], partitions integer[], counts integer[], newest_ms bigint[], acks text, producer_id bigint, producer_epoch integer, number bigint, rotation bigint, repeated boolean)
    returns TABLE(topic_id integer, partition integer, partition_id integer, offsets bigint[], upkeep_due boolean, log_append_ms bigint, appended boolean, current_rotation bigint)
    language plpgsql volatile security definer
    set plan_cache_mode = force_generic_plan
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.begin_flush(integer[],integer[],integer[],bigint[],text,bigint,integer,bigint,bigint,boolean) from public;

create function pgq.cancel_delayed(delayed_id text)
    returns boolean
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.cancel_delayed(text) from public;

create function pgq.change_subscription(member_id bigint, topics text[])
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.change_subscription(bigint,text[]) from public;

create function pgq.check_log()
    returns TABLE(topic text, partition integer, problem text, remedy text)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.check_log() from public;

create function pgq.claim_partitions(member_id bigint, generation bigint, topics text[], partitions integer[])
    returns TABLE(topic text, partition integer, epoch bigint, "offset" bigint, metadata text, added boolean)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.claim_partitions(bigint,bigint,text[],integer[]) from public;

create function pgq.commit_offsets(group_id text, topics text[], partitions integer[], offsets bigint[], metadata text[] DEFAULT NULL::text[], member_id bigint DEFAULT NULL::bigint, epochs bigint[] DEFAULT NULL::bigint[])
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.commit_offsets(text,text[],integer[],bigint[],text[],bigint,bigint[]) from public;

create function pgq.committed_offsets(group_id text, topics text[] DEFAULT NULL::text[], partitions integer[] DEFAULT NULL::integer[])
    returns TABLE(topic text, partition integer, "offset" bigint, metadata text, committed_at timestamp with time zone)
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.committed_offsets(text,text[],integer[]) from public;

create function pgq.compound_key(key bytea, n integer, salt bigint DEFAULT NULL::bigint)
    returns bytea
    language plpgsql volatile parallel restricted
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.compound_key(bytea,integer,bigint) from public;

create function pgq.compound_keys(key bytea, n integer, partitions integer DEFAULT NULL::integer, partitioner text DEFAULT 'murmur2'::text)
    returns SETOF bytea
    language plpgsql immutable parallel safe
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.compound_keys(bytea,integer,integer,text) from public;

create function pgq.crc32(key bytea)
    returns bigint
    language plpgsql immutable strict parallel safe
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.crc32(bytea) from public;

create function pgq.create_retry_topics(group_id text, topics text[])
    returns SETOF text
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.create_retry_topics(text,text[]) from public;

create function pgq.create_topic(name text, partitions integer DEFAULT 1, config jsonb DEFAULT '{}'::jsonb)
    returns pgq.topic_description
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.create_topic(text,integer,jsonb) from public;

create function pgq.create_topic_step(name text, partitions integer, config jsonb DEFAULT '{}'::jsonb)
    returns integer
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.create_topic_step(text,integer,jsonb) from public;

create function pgq.dead_letters(topic text DEFAULT NULL::text, group_id text DEFAULT NULL::text, error text DEFAULT NULL::text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, most integer DEFAULT 100)
    returns TABLE(topic text, group_id text, dead_letter_topic text, partition integer, "offset" bigint, origin_partition integer, origin_offset bigint, failed_at timestamp with time zone, attempts integer, redriven integer, first_error text, last_error text, key bytea, value bytea, codec smallint, header_keys text[], header_values bytea[])
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.dead_letters(text,text,text,timestamp with time zone,timestamp with time zone,integer) from public;

create function pgq.delete_group(group_id text)
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.delete_group(text) from public;

create function pgq.delete_group_offsets(group_id text, topics text[], partitions integer[] DEFAULT NULL::integer[])
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.delete_group_offsets(text,text[],integer[]) from public;

create function pgq.delete_records(topic text, partition integer, "offset" bigint)
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.delete_records(text,integer,bigint) from public;

create function pgq.delete_topic(name text)
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.delete_topic(text) from public;

create function pgq.delete_topic_step(name text)
    returns bigint
    language plpgsql volatile security definer
    set lock_timeout = 1s
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.delete_topic_step(text) from public;

create function pgq.deliver_due(most integer DEFAULT 1000, OUT delivered integer, OUT next_due_ms bigint)
    returns record
    language plpgsql volatile security definer
    set enable_bitmapscan = off
    set enable_mergejoin = off
    set enable_seqscan = off
    set enable_sort = off
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.deliver_due(integer) from public;

create function pgq.describe_cluster()
    returns TABLE(server text, role text, address text, port integer, state text, sync_state text, flush_lag_bytes bigint, replay_lag_bytes bigint, lag_seconds double precision)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.describe_cluster() from public;

create function pgq.describe_topic(name text)
    returns pgq.topic_description
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.describe_topic(text) from public;

create function pgq.end_stuck_members(member_id bigint)
    returns bigint
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.end_stuck_members(bigint) from public;

create function pgq.fail_records(group_id text, topics text[], partitions integer[], offsets bigint[], due_ats timestamp with time zone[], errors text[], attempts integer[] DEFAULT NULL::integer[])
    returns integer
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.fail_records(text,text[],integer[],bigint[],timestamp with time zone[],text[],integer[]) from public;

create function pgq."fetch"(topic text, partition integer, "offset" bigint, max_records integer DEFAULT 500)
    returns SETOF pgq.consumer_record
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq."fetch"(text,integer,bigint,integer) from public;

create function pgq.group_assignment(member_id bigint, OUT generation bigint, OUT assignor text, OUT members jsonb, OUT topics jsonb)
    returns record
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.group_assignment(bigint) from public;

create function pgq.heartbeat(member_id bigint, count_claims boolean DEFAULT false, OUT generation bigint, OUT claims bigint, OUT next_due_ms bigint)
    returns record
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.heartbeat(bigint,boolean) from public;

create function pgq.high_watermark(topic text, partition integer)
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.high_watermark(text,integer) from public;

create function pgq.init_producer(transactional_id text, OUT producer_id bigint, OUT producer_epoch integer, OUT rotation bigint)
    returns record
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.init_producer(text) from public;

create function pgq.join_group(group_id text, topics text[], assignor text DEFAULT 'range'::text, session_timeout_ms integer DEFAULT 45000, group_instance_id text DEFAULT NULL::text, client_id text DEFAULT ''::text, previous_member_id bigint DEFAULT NULL::bigint, OUT member_id bigint, OUT generation bigint, OUT channel text)
    returns record
    language plpgsql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.join_group(text,text[],text,integer,text,text,bigint) from public;

create function pgq.keep_partitions(member_id bigint, topics text[], partitions integer[])
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.keep_partitions(bigint,text[],integer[]) from public;

create function pgq.leave_group(member_id bigint)
    returns void
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.leave_group(bigint) from public;

create function pgq.list_topics()
    returns SETOF pgq.topic_description
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.list_topics() from public;

create function pgq.log_end_offset(topic text, partition integer)
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.log_end_offset(text,integer) from public;

create function pgq.log_start_offset(topic text, partition integer)
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.log_start_offset(text,integer) from public;

create function pgq.maintenance_due(grace interval DEFAULT '00:10:00'::interval)
    returns TABLE(job text, topic text, partition integer, finding text, since interval)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.maintenance_due(interval) from public;

create function pgq.murmur2(key bytea)
    returns integer
    language plpgsql immutable strict parallel safe
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.murmur2(bytea) from public;

create function pgq.offsets_for_times(topic text, partition integer, "timestamp" timestamp with time zone)
    returns bigint
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.offsets_for_times(text,integer,timestamp with time zone) from public;

create function pgq.partition_for_key(key bytea, partitions integer, partitioner text DEFAULT 'murmur2'::text)
    returns integer
    language sql immutable parallel safe;
revoke execute on function pgq.partition_for_key(bytea,integer,text) from public;

create function pgq.produce(topic text, value bytea, key bytea DEFAULT NULL::bytea, header_keys text[] DEFAULT NULL::text[], header_values bytea[] DEFAULT NULL::bytea[], INOUT partition integer DEFAULT NULL::integer, "timestamp" timestamp with time zone DEFAULT NULL::timestamp with time zone, OUT "offset" bigint)
    returns record
    language plpgsql volatile;
revoke execute on function pgq.produce(text,bytea,bytea,text[],bytea[],integer,timestamp with time zone) from public;

create function pgq.produce_batch(topic text, "values" bytea[], keys bytea[] DEFAULT NULL::bytea[], partitions integer[] DEFAULT NULL::integer[], timestamps timestamp with time zone[] DEFAULT NULL::timestamp with time zone[], headers jsonb[] DEFAULT NULL::jsonb[])
    returns SETOF pgq.record_metadata
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.produce_batch(text,bytea[],bytea[],integer[],timestamp with time zone[],jsonb[]) from public;

create function pgq.produce_delayed(topic text, value bytea, deliver_at timestamp with time zone, key bytea DEFAULT NULL::bytea, header_keys text[] DEFAULT NULL::text[], header_values bytea[] DEFAULT NULL::bytea[], partition integer DEFAULT NULL::integer, "timestamp" timestamp with time zone DEFAULT NULL::timestamp with time zone)
    returns text
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.produce_delayed(text,bytea,timestamp with time zone,bytea,text[],bytea[],integer,timestamp with time zone) from public;

create function pgq.produce_json(topic text, value jsonb, key text DEFAULT NULL::text, headers jsonb DEFAULT NULL::jsonb, INOUT partition integer DEFAULT NULL::integer, "timestamp" timestamp with time zone DEFAULT NULL::timestamp with time zone, OUT "offset" bigint)
    returns record
    language sql volatile
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.produce_json(text,jsonb,text,jsonb,integer,timestamp with time zone) from public;

create function pgq.purge_dead_letters(topic text DEFAULT NULL::text, group_id text DEFAULT NULL::text, error text DEFAULT NULL::text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, most integer DEFAULT 100, execute boolean DEFAULT false)
    returns TABLE(topic text, group_id text, dead_letter_topic text, partition integer, "offset" bigint, origin_partition integer, origin_offset bigint, failed_at timestamp with time zone, last_error text)
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.purge_dead_letters(text,text,text,timestamp with time zone,timestamp with time zone,integer,boolean) from public;

create function pgq.redrive_dead_letters(topic text DEFAULT NULL::text, group_id text DEFAULT NULL::text, error text DEFAULT NULL::text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, until timestamp with time zone DEFAULT NULL::timestamp with time zone, most integer DEFAULT 100, execute boolean DEFAULT false)
    returns TABLE(topic text, group_id text, dead_letter_topic text, partition integer, "offset" bigint, origin_partition integer, origin_offset bigint, failed_at timestamp with time zone, last_error text, retry_topic text)
    language sql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.redrive_dead_letters(text,text,text,timestamp with time zone,timestamp with time zone,integer,boolean) from public;

create function pgq.reset_offsets(group_id text, spec text, value text DEFAULT NULL::text, topics text[] DEFAULT NULL::text[], partitions integer[] DEFAULT NULL::integer[], offsets bigint[] DEFAULT NULL::bigint[], execute boolean DEFAULT false)
    returns TABLE(topic text, partition integer, current_offset bigint, new_offset bigint, clamped boolean)
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.reset_offsets(text,text,text,text[],integer[],bigint[],boolean) from public;

create function pgq.restart_offsets()
    returns TABLE(topic text, partition integer, sequence text, old_next bigint, new_next bigint)
    language plpgsql volatile security definer
    set lock_timeout = 10s
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.restart_offsets() from public;

create function pgq.rotate_flush_markers(every interval DEFAULT '01:00:00'::interval)
    returns boolean
    language plpgsql volatile security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.rotate_flush_markers(interval) from public;

create function pgq.schema_version()
    returns text
    language sql stable security definer
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.schema_version() from public;

create function pgq.split_compound_key(compound_key bytea)
    returns TABLE(key bytea, salt integer)
    language sql immutable parallel safe;
revoke execute on function pgq.split_compound_key(bytea) from public;

create function pgq.upkeep(partition_id integer, lock_timeout_ms integer DEFAULT 10)
    returns text
    language plpgsql volatile security definer
    set lock_timeout = 0
    set search_path = pgq, pg_catalog, pg_temp;
revoke execute on function pgq.upkeep(integer,integer) from public;

insert into pgq.topic_config values ('cleanup.policy', "delete", , , 'What becomes of old records: deleted by retention, all but the last of each key (compact), or both.');

insert into pgq.topic_config values ('compression.type', "producer", , , 'How clients compress values: as the producer chooses, or all the same way.');

insert into pgq.topic_config values ('delete.retention.ms', 86400000, 0, 9000000000000000, 'How long compaction keeps a tombstone, a record of a key without a value: milliseconds since it first met it.');

insert into pgq.topic_config values ('max.message.bytes', 1048576, 1, 104857600, 'Largest record accepted: bytes of key + value + headers as stored.');

insert into pgq.topic_config values ('message.timestamp.after.max.ms', 3600000, 0, 9000000000000000, 'How far a record''s timestamp may lie ahead of the server''s clock: milliseconds.');

insert into pgq.topic_config values ('message.timestamp.type', "CreateTime", , , 'Whose clock a record''s timestamp is: the producer''s, or the server''s when it is appended.');

insert into pgq.topic_config values ('min.compaction.lag.ms', 0, 0, 9000000000000000, 'Segments with a younger record than that are not compacted: milliseconds.');

insert into pgq.topic_config values ('min.insync.replicas', 1, 1, 100, 'Servers, the leader included, that an append with acks=all must be certain to reach; else it is refused.');

insert into pgq.topic_config values ('retention.bytes', 1073741824, -1, 1000000000000000, 'How much of a partition is kept at least: bytes on disk; -1 all of it.');

insert into pgq.topic_config values ('retention.ms', 604800000, -1, 9000000000000000, 'How long records are kept: milliseconds since the latest timestamp in their segment; -1 for ever.');

insert into pgq.topic_config values ('segment.bytes', 134217728, 1048576, 1073741824, 'Size on disk at which a segment ends: bytes, rolled at 1.25 times it at the latest. The default is an eighth of retention.bytes where that is less, but not below 1048576.');

insert into pgq.topic_config values ('segment.ms', 604800000, 1, 9000000000000000, 'How far the timestamps of a segment''s first and last record may lie apart before it ends: milliseconds.');
