"""pgq.acks_status on a server that stands alone; with followers in tests/clients/test_cluster.py."""

from __future__ import annotations

import json

import psycopg

from pgq import schema
from pgq.embedded import EmbeddedServer
from tests.plugins.sessions import Connection, call, eventually, rows, value

from .conftest import MakeTopic

ALONE = "synchronous_standby_names is empty: a record that is acknowledged is lost with the leader."


def test_without_standbys(conn: Connection) -> None:
    assert call(conn, "acks_status") == [("", 1, "acks=all waits for the leader alone, as acks=1 does.", [ALONE])]


def test_topics_that_ask_for_more(conn: Connection, make_topic: MakeTopic) -> None:
    for name, replicas in (("a", 1), ("b", 2), ("c", 3), ("d", 3)):
        make_topic(name, config=json.dumps({"min.insync.replicas": replicas}))
    make_topic("default")
    end = "and 1 server is in sync: appends with acks=all are refused."
    assert value(conn, "select warnings from pgq.acks_status()") == [
        ALONE,
        f"min.insync.replicas is 2 for topic b, {end}",
        f"min.insync.replicas is 3 for 2 topics, such as c, {end}",
    ]


def test_settings_that_risk_the_data(own_server: EmbeddedServer) -> None:
    schema.upgrade(own_server.dsn())
    with psycopg.connect(own_server.dsn(), autocommit=True) as boss:
        for setting in ("fsync", "full_page_writes"):
            boss.execute(f"alter system set {setting} = off")
        boss.execute("select pg_reload_conf()")
        eventually(lambda: rows(boss, "show full_page_writes") == [("off",)])
        warnings = value(boss, "select warnings from pgq.acks_status()")
    assert [warning.partition(":")[0] for warning in warnings[1:]] == ["fsync is off", "full_page_writes is off"]
