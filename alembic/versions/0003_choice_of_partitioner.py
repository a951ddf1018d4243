"""pgq.partition_for_key has a third parameter: the function of two would make every call of two ambiguous."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# A fresh install does not have it, and "if exists" would say so to whoever installs.
DROP = """
do $$
begin
    if to_regprocedure('pgq.partition_for_key(bytea, int)') is not null then
        drop function pgq.partition_for_key(bytea, int);
    end if;
end
$$
"""


def upgrade() -> None:
    op.execute(DROP.strip())
