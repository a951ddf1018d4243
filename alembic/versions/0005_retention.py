"""Retention and compaction: what a log keeps."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

DDL = """
insert into pgq.topic_config (key, default_value, minimum, maximum, choices, description) values
    ('retention.ms', '604800000', -1, 9000000000000000, null,
     'How long records are kept: milliseconds since the latest timestamp in their segment; -1 for ever.'),
    ('retention.bytes', '1073741824', -1, 1000000000000000, null,
     'How much of a partition is kept at least: bytes on disk; -1 all of it.'),
    ('segment.ms', '604800000', 1, 9000000000000000, null,
     'How far the timestamps of a segment''s first and last record may lie apart before it ends: milliseconds.'),
    ('cleanup.policy', '"delete"', null, null, '{delete,compact,"compact,delete","delete,compact"}',
     'What becomes of old records: deleted by retention, all but the last of each key (compact), or both.'),
    ('delete.retention.ms', '86400000', 0, 9000000000000000, null,
     'How long compaction keeps a tombstone, a record of a key without a value: milliseconds since it first met it.'),
    ('min.compaction.lag.ms', '0', 0, 9000000000000000, null,
     'Segments with a younger record than that are not compacted: milliseconds.');
update pgq.topic_config set description =
    'Size on disk at which a segment ends: bytes, rolled at 1.25 times it at the latest. The default is an eighth of'
    ' retention.bytes where that is less, but not below 1048576.'
    where key = 'segment.bytes';

-- nothing is deleted that was kept until now
update pgq.topic set config = '{"retention.ms": -1, "retention.bytes": -1}' || config;

alter table pgq.segment add column bytes bigint;
comment on column pgq.segment.bytes is
    'On disk, once no transaction can add to it any more; null before that.';
create index segment_open on pgq.segment (partition_id) where bytes is null;

create table pgq.compaction (
    partition_id int not null references pgq.partition on delete cascade,
    clean_to     bigint not null,
    cleaned_at   timestamptz not null default clock_timestamp(),
    tombstones   bigint not null,
    primary key (partition_id, clean_to)
);
comment on table pgq.compaction is
    'How far a partition was compacted when: below clean_to there was one record a key, and so many tombstones. They'
    ' are removed by the first pass that begins delete.retention.ms later.';

create table pgq.job (
    job              text collate "C" primary key,
    runs             bigint not null default 0,
    failures         bigint not null default 0,
    succeeded_at     timestamptz,
    seconds          double precision,
    result           text,
    failed_at        timestamptz,
    error            text,
    pid              int not null default pg_backend_pid(),
    application_name text not null default current_setting('application_name')
);
comment on table pgq.job is
    'What the jobs of the service have done last. Written some times a minute, whoever runs them.'
"""

# Its result has another column now; it is made from sql/ after the revisions.
DROP = """
do $$
begin
    if to_regprocedure('pgq._topic_metadata(text)') is not null then
        drop function pgq._topic_metadata(text);
    end if;
end
$$
"""


def upgrade() -> None:
    op.execute(DROP.strip())
    for statement in DDL.strip().split(";\n"):
        op.execute(statement)
