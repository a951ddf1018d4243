"""pgq.partition_for_key has a third parameter: the function of two would make every call of two ambiguous."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("drop function if exists pgq.partition_for_key(bytea, int)")
