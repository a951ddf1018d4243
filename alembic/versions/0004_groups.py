"""Consumer groups: members, generations, owners of partitions and their epochs."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

DDL = """
alter table pgq.consumer_group add column generation bigint not null default 0;
alter table pgq.consumer_group add column assignor text collate "C";
comment on column pgq.consumer_group.generation is
    'Raised whenever members or what they subscribe to change: everybody then works out the assignment anew.';

-- A row is inserted when a member joins and deleted when it leaves; that it lives is its session's advisory lock.
create table pgq.group_member (
    member_id          bigint primary key,
    consumer_group_id  int not null references pgq.consumer_group on delete cascade,
    group_instance_id  text collate "C",
    client_id          text not null,
    topics             text[] collate "C" not null,
    topology           bigint not null,
    session_timeout_ms int not null,
    pid                int not null,
    client_addr        inet,
    joined_at          timestamptz not null default clock_timestamp(),
    dead_since         timestamptz,
    unique (consumer_group_id, group_instance_id)
);
create index group_member_ring on pgq.group_member (consumer_group_id, member_id);
comment on column pgq.group_member.topology is
    'A hash over the subscribed topics and their partitions: another one, another assignment.';
comment on column pgq.group_member.dead_since is
    'When a static member was found without a session: it keeps its partitions until session_timeout_ms later.';

-- Updated at each claim only, so rarely; commits lock it and change nothing.
create table pgq.partition_owner (
    consumer_group_id int not null references pgq.consumer_group on delete cascade,
    partition_id      int not null references pgq.partition on delete cascade,
    epoch             bigint not null,
    member_id         bigint,
    leader_epoch      int,
    claimed_at        timestamptz not null default clock_timestamp(),
    first_claimed_at  timestamptz not null default clock_timestamp(),
    primary key (consumer_group_id, partition_id)
) with (fillfactor = 50);
comment on table pgq.partition_owner is
    'Who claimed a partition last, and how often it was claimed: a commit under an older epoch is refused.';
comment on column pgq.partition_owner.first_claimed_at is
    'Since when the group reads it: partitions that the topic was given later are read from their beginning.';
comment on column pgq.partition_owner.leader_epoch is
    'Under which leader it was claimed: what was read from another may be missing in the log of this one.';

alter table pgq.committed_offset add column epoch bigint;
comment on column pgq.committed_offset.epoch is 'Under which claim it was committed; null outside of one.'
"""

# Functions whose signatures change; they are made from sql/ after the revisions.
DROP = """
do $$
begin
    if to_regprocedure('pgq.commit_offsets(text, text[], int[], bigint[], text[])') is not null then
        drop function pgq.commit_offsets(text, text[], int[], bigint[], text[]);
    end if;
    if to_regprocedure('pgq._park(int[])') is not null then
        drop function pgq._park(int[]);
    end if;
end
$$
"""


def upgrade() -> None:
    op.execute(DROP.strip())
    for statement in DDL.strip().split(";\n"):
        op.execute(statement)
