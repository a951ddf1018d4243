"""Delayed records, and what becomes of records that could not be processed."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DDL = """
create table pgq_log.delayed (
    due_at        timestamptz not null,
    serial        bigint not null,
    topic_id      int not null,
    partition     int not null,
    "timestamp"   timestamptz,
    key           bytea,
    value         bytea,
    header_keys   text[],
    header_values bytea[],
    codec         smallint,
    created_at    timestamptz not null default clock_timestamp()
);
comment on table pgq_log.delayed is
    'Records that are appended when they are due. Itself empty: they stand in tables like it, one an hour of due_at,'
    ' which are dropped when all their records are gone.';
create sequence pgq_log.delayed_serial;

-- A row a change, the newest counts: an update would leave a chain of dead rows behind a held snapshot.
create table pgq.delivery (
    delivery_id   bigint primary key,
    search_from   timestamptz not null,
    search_serial bigint not null,
    open          bigint[] not null
);
comment on column pgq.delivery.search_from is
    'Whatever was due before, or then with a serial below search_serial, has been delivered, but for what the'
    ' transactions in open have sent.';
comment on column pgq.delivery.open is
    'DELAY locks of transactions that were open when that was seen: once one has ended, the search begins at its time.';
insert into pgq.delivery values (0, 'epoch', 0, '{}');

create table pgq.failure_topic (
    topic_id       int primary key references pgq.topic on delete cascade,
    kind           text collate "C" not null check (kind in ('retry', 'dead letter')),
    group_id       text collate "C" not null,
    origin         text collate "C" not null,
    unique (origin, group_id, kind)
);
comment on table pgq.failure_topic is
    'Topics for the records of origin that the group could not process. No pattern that is subscribed to matches them.';

create table pgq.settled_dead_letter (
    partition_id int not null references pgq.partition on delete cascade,
    "offset"     bigint not null,
    outcome      text collate "C" not null check (outcome in ('redriven', 'purged')),
    settled_at   timestamptz not null default clock_timestamp(),
    primary key (partition_id, "offset")
);
comment on table pgq.settled_dead_letter is
    'Records of dead letter topics that were sent back or given up: they are not listed. Removed with the log start.'
"""

# Functions whose signatures change; they are made from sql/ after the revisions.
DROP = """
do $$
begin
    if to_regprocedure('pgq._clear_segment(int, bigint)') is not null then
        drop function pgq._clear_segment(int, bigint);
    end if;
    if to_regprocedure('pgq.heartbeat(bigint, boolean)') is not null then
        drop function pgq.heartbeat(bigint, boolean);
    end if;
end
$$
"""


def upgrade() -> None:
    op.execute(DROP.strip())
    for statement in DDL.strip().split(";\n"):
        op.execute(statement)
