"""What pgq says of a real cluster: its servers, what acks=all means, and how synchronous_standby_names is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgq.embedded import EmbeddedServer
from pgq.embedded_cluster import EmbeddedCluster
from tests.plugins.cluster import DATABASE
from tests.plugins.postgres import APPLICATION
from tests.plugins.sessions import Connection, call, eventually, rows, value

ALL_OF_ANY_1 = (
    "acks=all waits for the leader and any 1 of pgq2, pgq3: every record is on 2 servers when it is acknowledged."
)


@pytest.fixture(autouse=True)
def no_connection_is_left() -> None:
    """Not looked at here: the servers are the test's own."""


def session(server: EmbeddedServer, user: str) -> Connection:
    return psycopg.connect(server.dsn(DATABASE, user=user), autocommit=True)


@pytest.fixture
def boss(cluster: EmbeddedCluster) -> Iterator[Connection]:
    """A superuser's session on the leader that waits for nobody."""
    with session(cluster.leader, "postgres") as conn:
        conn.execute("set synchronous_commit = local")
        yield conn


@pytest.fixture
def app(cluster: EmbeddedCluster) -> Iterator[Connection]:
    """A session of the application on the leader."""
    with session(cluster.leader, APPLICATION) as conn:
        conn.execute("set synchronous_commit = local")
        yield conn


def servers(conn: Connection) -> list[tuple[Any, ...]]:
    return rows(conn, "select server, role, state, sync_state from pgq.describe_cluster()")


def warnings(conn: Connection) -> list[str]:
    result: list[str] = value(conn, "select warnings from pgq.acks_status()")
    return result


def test_servers_that_come_and_go(cluster: EmbeddedCluster, app: Connection, boss: Connection) -> None:
    leader = ("pgq1", "leader", None, None)
    everybody = [leader, ("pgq2", "follower", "streaming", "quorum"), ("pgq3", "follower", "streaming", "quorum")]
    assert servers(app) == everybody
    assert rows(app, "select address, port from pgq.describe_cluster()") == [
        ("127.0.0.1", cluster.leader.port),
        ("127.0.0.1", None),
        ("127.0.0.1", None),
    ]
    names = "ANY 1 (pgq2, pgq3)"
    assert call(app, "acks_status") == [(names, 2, ALL_OF_ANY_1, [])]

    cluster.servers["pgq3"].stop()
    gone = ("pgq3", "follower", "disconnected", None)
    eventually(lambda: servers(app) == [*everybody[:2], gone])
    assert call(app, "acks_status") == [(names, 2, ALL_OF_ANY_1, [])]

    cluster.servers["pgq2"].stop()
    eventually(lambda: servers(app) == [leader, ("pgq2", "follower", "disconnected", None), gone])
    waits = "Only 0 of the 1 synchronous standbys that acks=all asks for are there: it waits until more are."
    assert call(app, "acks_status") == [(names, 1, ALL_OF_ANY_1, [waits])]
    call(app, "create_topic", name="orders", config='{"min.insync.replicas": 2}')
    refused = "min.insync.replicas is 2 for topic orders, and 1 server is in sync: appends with acks=all are refused."
    assert warnings(app) == [waits, refused]

    for follower in cluster.followers.values():
        follower.start()
    eventually(lambda: servers(app) == everybody and not warnings(app))


def test_lag(cluster: EmbeddedCluster, app: Connection, boss: Connection) -> None:
    lag = "select flush_lag_bytes, replay_lag_bytes, lag_seconds from pgq.describe_cluster()"
    eventually(lambda: rows(app, lag) == [(None, None, None), (0, 0, 0.0), (0, 0, 0.0)])
    cluster.servers["pgq3"].pause()
    boss.execute("create table filler as select repeat('x', 1000) from generate_series(1, 1000)")
    eventually(lambda: rows(app, lag)[1] == (0, 0, 0.0))
    _, _, (flush, replay, _) = rows(app, lag)
    assert flush > 1_000_000
    assert replay >= flush
    cluster.servers["pgq3"].resume()
    eventually(lambda: rows(app, lag)[2] == (0, 0, 0.0))


def test_on_a_standby_and_after_its_promotion(cluster: EmbeddedCluster, boss: Connection) -> None:
    replayed = "select bool_and(replay_lsn >= pg_current_wal_lsn()) from pg_stat_replication"
    eventually(lambda: value(boss, replayed))  # the schema, too
    with session(cluster.servers["pgq2"], APPLICATION) as standby:
        port = cluster.servers["pgq2"].port
        one = ("pgq2", "follower", "127.0.0.1", port, "streaming", None, None)
        eventually(lambda: [row[:7] for row in call(standby, "describe_cluster")] == [one])
        cluster.leader.kill()
        eventually(lambda: servers(standby) == [("pgq2", "follower", "disconnected", None)])
        ((_, in_sync, sentence, told),) = call(standby, "acks_status")
        assert (in_sync, sentence) == (None, "Nothing can be appended here.")
        assert told == ["This server is a standby: ask the leader (target_session_attrs=read-write)."]
        cluster.promote("pgq2")
        there = [("pgq2", "leader", None, None), ("pgq3", "follower", "streaming", "quorum")]
        old = ("pgq1", "follower", "disconnected", None)
        eventually(lambda: servers(standby) == [there[0], old, there[1]])
        assert value(standby, "select in_sync_replicas from pgq.acks_status()") == 2
        assert warnings(standby) == []


def test_an_owner_who_may_not_see_it(cluster: EmbeddedCluster, app: Connection, boss: Connection) -> None:
    boss.execute(f"revoke pg_read_all_stats from {APPLICATION}")
    assert call(app, "describe_cluster")[1:] == [
        (name, "follower", None, None, None, None, None, None, None) for name in ("pgq2", "pgq3")
    ]
    ((_, in_sync, sentence, (warning,)),) = call(app, "acks_status")
    assert (in_sync, sentence) == (None, ALL_OF_ANY_1)
    assert "grant pg_read_all_stats to pgq_app" in warning
    for follower in cluster.followers.values():
        follower.stop()
    eventually(lambda: value(app, "select in_sync_replicas from pgq.acks_status()") == 1)


def test_synchronous_standby_names(boss: Connection) -> None:
    """The setting, what it asks for, on how many servers a commit is certain to be with pgq2 and pgq3 there."""
    for setting, method, wanted, names, in_sync in [
        ("", None, 0, [], 1),
        ("ANY 1 (pgq2, pgq3)", "any", 1, ["pgq2", "pgq3"], 2),
        ("ANY 2 (pgq2, pgq3)", "any", 2, ["pgq2", "pgq3"], 3),
        ("any 2(pgq9,pgq3)", "any", 2, ["pgq9", "pgq3"], 2),
        ("ANY 1 (*)", "any", 1, ["*"], 2),
        (" Any  2 ( * ) ", "any", 2, ["*"], 3),
        ("FIRST 1 (pgq2, pgq3)", "first", 1, ["pgq2", "pgq3"], 2),
        ("first 2 (pgq3, pgq2)", "first", 2, ["pgq3", "pgq2"], 3),
        ("FIRST 2 (pgq9, pgq2, pgq3)", "first", 2, ["pgq9", "pgq2", "pgq3"], 3),
        ("FIRST 3 (*)", "first", 3, ["*"], 3),
        ("2 (pgq2, pgq3)", "first", 2, ["pgq2", "pgq3"], 3),
        ("1(pgq9)", "first", 1, ["pgq9"], 1),
        ("pgq2", "first", 1, ["pgq2"], 2),
        ("pgq9", "first", 1, ["pgq9"], 1),
        ("pgq9, pgq3", "first", 1, ["pgq9", "pgq3"], 2),
        ("*", "first", 1, ["*"], 2),
        ("PGQ2, 7", "first", 1, ["PGQ2", "7"], 2),
        ('"ANY 2 (pgq2, pgq3)"', "first", 1, ["ANY 2 (pgq2, pgq3)"], 1),
        ('ANY 2 ("pgq2", "a ""b"", (c)", "PGQ3")', "any", 2, ["pgq2", 'a "b", (c)', "PGQ3"], 3),
    ]:
        boss.execute(sql.SQL("alter system set synchronous_standby_names = {}").format(setting))
        boss.execute("select pg_reload_conf()")
        eventually(lambda setting=setting: value(boss, "show synchronous_standby_names") == setting)
        assert rows(boss, "select * from pgq._synchronous_standbys()") == [(method, wanted, names)], setting
        eventually(lambda in_sync=in_sync: value(boss, "select pgq._in_sync_replicas()") == in_sync)
        missing = [row[0] for row in servers(boss) if row[2] == "disconnected"]
        assert missing == sorted(n for n in names if n.lower() not in ("*", "pgq2", "pgq3")), setting
        waits = any("it waits until" in warning for warning in warnings(boss))
        assert waits == (in_sync <= wanted and wanted > 0), setting


def test_groups_on_a_standby(cluster: EmbeddedCluster, app: Connection, boss: Connection) -> None:
    """It does not know the leader's locks: who lives and who holds what is null there, and so is the lag."""
    app.execute("select pgq.create_topic('orders'), pgq.commit_offsets('g', '{orders}', '{0}', '{3}')")
    call(app, "join_group", group_id="g", topics=["orders"], client_id="billing")
    ((group, members),) = rows(app, "select state, members from pgq.group_status")
    assert (group, members) == ("Rebalancing", 1)
    status = {
        "group_status": ("group_id, state, members, partitions, lag, time_lag", ("g", None, None, None, None, None)),
        "member_status": (
            "client_id, topics, alive, partitions, assignment",
            ("billing", ["orders"], None, None, None),
        ),
        "group_partition_status": (
            "topic, committed_offset, log_end_offset, high_watermark, lag, time_lag, member_id",
            ("orders", 3, 0, None, None, None, None),
        ),
    }
    replayed = "select bool_and(replay_lsn >= pg_current_wal_lsn()) from pg_stat_replication"
    eventually(lambda: value(boss, replayed))
    with session(cluster.servers["pgq2"], APPLICATION) as standby:
        for view, (columns, expected) in status.items():
            assert rows(standby, f"select {columns} from pgq.{view}") == [expected]
        with pytest.raises(psycopg.Error) as caught:
            call(standby, "reset_offsets", group_id="g", spec="to-latest")
        assert caught.value.sqlstate == "PQ010"
        with pytest.raises(psycopg.Error) as caught:
            call(standby, "deliver_due")
        assert caught.value.sqlstate == "PQ010"
