"""Producers: topic configuration in words, markers of flushes, transactional ids."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DDL = """
alter table pgq.topic_config alter column default_value type jsonb using to_jsonb(default_value);
alter table pgq.topic_config alter column minimum drop not null;
alter table pgq.topic_config alter column maximum drop not null;
alter table pgq.topic_config add column choices text[];
alter table pgq.topic_config add constraint topic_config_values
    check ((choices is null) = (minimum is not null and maximum is not null));
comment on column pgq.topic_config.choices is
    'The values of a key that takes a word; minimum and maximum are those of a number.';
insert into pgq.topic_config (key, default_value, minimum, maximum, choices, description) values
    ('compression.type', '"producer"', null, null, '{producer,uncompressed,gzip,lz4,zstd}',
     'How clients compress values: as the producer chooses, or all the same way.'),
    ('message.timestamp.after.max.ms', '3600000', 0, 9000000000000000, null,
     'How far a record''s timestamp may lie ahead of the server''s clock: milliseconds.'),
    ('message.timestamp.type', '"CreateTime"', null, null, '{CreateTime,LogAppendTime}',
     'Whose clock a record''s timestamp is: the producer''s, or the server''s when it is appended.'),
    ('min.insync.replicas', '1', 1, 100, null,
     'Servers, the leader included, that an append with acks=all must be certain to reach; else it is refused.');

create table pgq.producer (
    transactional_id text collate "C" primary key,
    producer_id      bigint not null unique,
    producer_epoch   int not null default 0,
    started_at       timestamptz not null default now()
);
comment on table pgq.producer is
    'Producers with a transactional_id: who comes later raises the epoch and fences who was before.';

-- Four slots, used in turn and emptied whole (pgq.rotate_flush_markers), since deleted rows would be left for vacuum.
create table pgq.flush_marker (
    slot           int not null,
    producer_id    bigint not null,
    producer_epoch int not null,
    number         bigint not null,
    topic_ids      int[] not null,
    partitions     int[] not null,
    offsets        int8multirange[] not null,
    primary key (slot, producer_id, producer_epoch, number)
) partition by list (slot);
comment on table pgq.flush_marker is
    'Insert-only: which flushes of which producer are in the log, so that none is appended twice.';
create table pgq.flush_marker_0 partition of pgq.flush_marker for values in (0);
create table pgq.flush_marker_1 partition of pgq.flush_marker for values in (1);
create table pgq.flush_marker_2 partition of pgq.flush_marker for values in (2);
create table pgq.flush_marker_3 partition of pgq.flush_marker for values in (3);

create table pgq.flush_rotation (
    one        boolean primary key default true check (one),
    rotation   bigint not null,
    rotated_at timestamptz not null default now()
);
comment on table pgq.flush_rotation is
    'Flushes are marked in slot rotation modulo 4. A marker is kept for at least two rotations.';
insert into pgq.flush_rotation (rotation) values (0)
"""


# A fresh install has none of them yet; they are made from sql/ after the revisions.
DROP = """
do $$
begin
    if to_regclass('pgq.topic_status') is not null then
        drop view pgq.topic_status;
        drop function pgq._config_value(int, text);
        drop function pgq._take_offset(int, regclass);
        drop function pgq._topic_metadata(text);
        drop function pgq._check_record(bytea, bytea, text[], bytea[], timestamptz, bigint);
    end if;
    -- has a third parameter now: beside it, this one would make every call with two ambiguous
    if to_regprocedure('pgq.partition_for_key(bytea, int)') is not null then
        drop function pgq.partition_for_key(bytea, int);
    end if;
end
$$
"""


def upgrade() -> None:
    op.execute(DROP.strip())
    for statement in DDL.strip().split(";\n"):
        op.execute(statement)
