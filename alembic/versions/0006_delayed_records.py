"""Delayed records."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# Functions whose signatures change; they are made from sql/ after the revisions.
DROP = """
do $$
begin
    if to_regprocedure('pgq._clear_segment(int, bigint)') is not null then
        drop function pgq._clear_segment(int, bigint);
    end if;
end
$$
"""


def upgrade() -> None:
    op.execute(DROP.strip())
