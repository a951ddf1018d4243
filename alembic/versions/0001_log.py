"""The log: topics, partitions, segments, committed offsets.

Frozen DDL: a released revision is never edited and never reads the live sql/ folder.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DDL = """
create schema pgq_log;
comment on schema pgq_log is 'The log itself: one table tree a topic. Written by the rules of pgq.produce only.';
create schema pgq_topic;
comment on schema pgq_topic is 'One read-only view a topic.';

create table pgq.topic_config (
    key           text collate "C" primary key,
    default_value bigint not null,
    minimum       bigint not null,
    maximum       bigint not null,
    description   text not null
);
comment on table pgq.topic_config is 'The configuration keys that a topic accepts, their defaults and bounds.';
insert into pgq.topic_config values
    ('max.message.bytes', 1048576, 1, 104857600,
     'Largest record accepted: bytes of key + value + headers as stored.'),
    ('segment.bytes', 134217728, 1048576, 1073741824,
     'Size on disk at which a segment ends: bytes, rolled at 1.25 times it at the latest.');

create table pgq.topic (
    topic_id   int generated always as identity primary key,
    name       text collate "C" not null unique,
    partitions int not null,
    config     jsonb not null default '{}',
    created_at timestamptz not null default now()
);
comment on column pgq.topic.config is 'Only what differs from the defaults in pgq.topic_config.';

-- partition_id is the 18-bit part of the APPEND lock's key, hence the bound
create table pgq.partition (
    partition_id     int generated always as identity (minvalue 1 maxvalue 262143) primary key,
    topic_id         int not null references pgq.topic,
    partition        int not null,
    sequence         regclass not null,
    log_start_offset bigint not null default 0,
    unique (topic_id, partition)
);

-- insert-only, but for the drop of a segment
create table pgq.segment (
    partition_id int not null references pgq.partition,
    base_offset  bigint not null,
    end_offset   bigint not null,
    created_at   timestamptz not null default now(),
    primary key (partition_id, base_offset)
);

create table pgq.skipped_range (
    partition_id int not null references pgq.partition,
    from_offset  bigint not null,
    to_offset    bigint not null,
    primary key (partition_id, from_offset)
);
comment on table pgq.skipped_range is 'from_offset to to_offset - 1 were never given out: a segment was rolled.';

create table pgq.consumer_group (
    consumer_group_id int generated always as identity primary key,
    name              text collate "C" not null unique,
    created_at        timestamptz not null default now()
);

-- insert-only: the row with the greatest serial counts
create table pgq.committed_offset (
    consumer_group_id int not null references pgq.consumer_group,
    partition_id      int not null references pgq.partition,
    serial            bigint generated always as identity,
    "offset"          bigint not null,
    metadata          text not null default '',
    committed_at      timestamptz not null default now(),
    primary key (consumer_group_id, partition_id, serial)
);

create type pgq.consumer_record as (
    partition     int,
    "offset"      bigint,
    "timestamp"   timestamptz,
    key           bytea,
    value         bytea,
    header_keys   text[],
    header_values bytea[],
    codec         smallint
);
create type pgq.record_metadata as (partition int, "offset" bigint);
create type pgq.topic_description as (topic_id int, name text, partitions int, config jsonb)
"""


def upgrade() -> None:
    for statement in DDL.strip().split(";\n"):
        op.execute(statement)
