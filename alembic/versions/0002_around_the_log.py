"""States of topics, for those that are made and deleted in steps."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

DDL = """
alter table pgq.topic add column state text collate "C" not null default 'ready'
    constraint topic_state check (state in ('creating', 'ready', 'deleting'));
comment on column pgq.topic.state is 'Only a topic that is ready can be used; the others are made or deleted in steps.';
comment on column pgq.topic.partitions is
    'How many there are to be used. pgq.partition may hold more: of a topic that is deleted, or just being given more.'
"""


def upgrade() -> None:
    for statement in DDL.strip().split(";\n"):
        op.execute(statement)
