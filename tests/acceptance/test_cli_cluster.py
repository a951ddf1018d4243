"""`pgq cluster describe` on a server that stands alone; with followers in test_dev.py and test_compose.py."""

from __future__ import annotations

import csv
import io
import json

from pgq import Admin
from tests.acceptance.test_cli import refusal, run


def test_forms(dsn: str) -> None:
    table = run("cluster", "describe", PGQ_DSN=dsn)
    assert (table.returncode, table.stderr) == (0, "")
    assert "acks=all waits for the leader alone" in table.stdout
    with Admin(dsn) as admin:
        cluster = admin.describe_cluster()
    described = json.loads(run("cluster", "describe", "-o", "json", PGQ_DSN=dsn).stdout)
    assert described.pop("servers") == [server._asdict() for server in cluster.servers]
    assert described == {
        "synchronous_standby_names": "",
        "in_sync_replicas": 1,
        "acks_all": cluster.acks_all,
        "warnings": cluster.warnings,
    }
    (row,) = csv.DictReader(io.StringIO(run("cluster", "describe", "-o", "csv", PGQ_DSN=dsn).stdout))
    assert (row["server"], row["role"], row["state"]) == ("leader", "leader", "")


def test_check_exits_with_1_where_there_is_a_warning(dsn: str) -> None:
    with Admin(dsn) as admin:
        assert admin.describe_cluster().warnings  # nobody follows
    done = run("cluster", "describe", "--check", PGQ_DSN=dsn)
    assert (done.returncode, done.stderr) == (1, "")
    assert "lost with the leader" in done.stdout


def test_a_server_that_is_not_there() -> None:
    assert "not available" in refusal("cluster", "describe", "--dsn", "postgresql://127.0.0.1:1/x")
