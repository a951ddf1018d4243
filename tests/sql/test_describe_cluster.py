"""pgq.describe_cluster on a server that stands alone; with followers in tests/clients/test_cluster.py."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgq import schema
from pgq.embedded import EmbeddedServer
from tests.plugins.sessions import Connection, call, eventually, rows


def test_a_server_alone(conn: Connection, dsn: str) -> None:
    ((server, role, address, port, *rest),) = call(conn, "describe_cluster")
    assert (server, role, rest) == ("leader", "leader", [None] * 5)
    if (host := conninfo_to_dict(dsn).get("host", "")).startswith("127."):  # else the server may know itself otherwise
        assert (address, str(port)) == (host, conninfo_to_dict(dsn)["port"])


@pytest.mark.parametrize(
    "command",
    [b"BASE_BACKUP", b"START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')"],
    ids=["base backup", "subscription"],
)
def test_who_is_no_follower(own_server: EmbeddedServer, command: bytes) -> None:
    """A base backup under way, and a subscription that no commit waits for."""
    schema.upgrade(own_server.dsn())
    with psycopg.connect(own_server.dsn(), autocommit=True) as boss:
        boss.execute("alter system set wal_level = logical")
    own_server.restart()
    with psycopg.connect(own_server.dsn(), autocommit=True) as boss, ExitStack() as stack:
        boss.execute("create publication p")
        boss.execute("select pg_create_logical_replication_slot('s', 'pgoutput')")
        other = pq.PGconn.connect(make_conninfo(own_server.dsn(), replication="database").encode())
        stack.callback(other.finish)
        other.send_query(command)
        eventually(lambda: len(rows(boss, "select from pg_stat_replication where state <> 'startup'")) == 1)
        assert [row[1] for row in call(boss, "describe_cluster")] == ["leader"]
