"""Short histories of groups; and the checker that judges them: it proves something only if it catches what it names."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

import pytest

import pgq
from pgq import errors
from pgq.schema.files import sql_folder
from tests.plugins.sessions import Connection, eventually

from .group_checker import AUDIT, audited, check_claims, check_commits, check_copies, check_deliveries
from .groups import Server, Settings, execute

if TYPE_CHECKING:
    from pgq.embedded import EmbeddedServer


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True], ids=["commits", "transactions"])
def test_history(own_server: EmbeddedServer, *, exact: bool) -> None:
    """Whatever happens to members and server: nothing unread, no two owners; exactly once with transactions."""
    result = execute(Server(own_server), "groups", Settings(seed=1, seconds=8, exact=exact))
    assert result.passed, "\n".join([result.summary(), *result.anomalies[:10], *result.unexpected[:10]])
    assert result.acknowledged > 2000, result.summary()
    assert result.commits > 50, result.summary()


def test_unread_and_repeated_records_are_caught() -> None:
    acknowledged = {(0, 0), (0, 1)}
    assert check_deliveries(acknowledged, Counter([(0, 0), (0, 1), (0, 2)]), once=True) == []
    assert check_deliveries(acknowledged, Counter([(0, 0), (0, 0), (0, 1)]), once=False) == []
    assert check_deliveries(acknowledged, Counter([(0, 0)]), once=True) == ["unread: (0, 1)"]
    assert check_deliveries(acknowledged, Counter([(0, 0), (0, 1), (0, 1)]), once=True) == ["repeated: (0, 1) 2 times"]


def test_two_owners_and_offsets_that_go_back_are_caught() -> None:
    assert check_commits([(1, 5, 1), (1, 5, 2), (2, 0, 1), (1, 9, 2)]) == []
    assert check_commits([(1, 5, 1), (1, 4, 2)]) == ["went back: partition_id 1 from 5 to 4"]
    assert check_commits([(1, 5, 2), (1, 6, 1), (1, 7, 2)]) == ["two owners: partition_id 1 epoch 1 after 2"]
    assert check_claims([(1, 1, 10), (1, 2, 11), (2, 1, 10)]) == []
    assert check_claims([(1, 1, 10), (1, 1, 11)]) == ["two owners: partition_id 1 epoch 1 of 2"]


def test_copies_that_are_missing_or_twice_are_caught() -> None:
    assert check_copies("row", {(0, 0)}, Counter([(0, 0), (0, 1)])) == []
    assert check_copies("row", {(0, 0), (0, 1)}, Counter([(0, 0), (0, 0)])) == [
        "duplicate: row of (0, 0) 2 times",
        "missing: row of (0, 1)",
    ]


EPOCH_CHECK = "and o.epoch = epochs[i] and o.member_id = commit_offsets.member_id "


@pytest.mark.parametrize("mutated", [False, True], ids=["as it is", "mutated"])
def test_commit_without_the_epoch_check(dsn: str, conn: Connection, *, mutated: bool) -> None:
    """A member whose session has ended commits after another has taken over and gone on."""
    text = (sql_folder() / "functions/commit_offsets.sql").read_text()
    assert EPOCH_CHECK in text
    if mutated:
        conn.execute(text.replace(EPOCH_CHECK, "").encode())
    conn.execute(AUDIT)
    conn.execute("select pgq.create_topic('history')")
    conn.execute("select count(pgq.produce('history', 'x')) from generate_series(1, 20)")
    options = {"dsn": dsn, "group_id": "g", "auto_offset_reset": "earliest", "enable_auto_commit": False}
    with pgq.Consumer("history", **options, max_poll_records=10) as zombie, pgq.Consumer("history", **options) as heir:
        assert zombie.getmany(timeout_ms=5000)
        conn.execute("select pg_terminate_backend(pid) from pgq.group_member")
        eventually(lambda: bool(heir.getmany(timeout_ms=100)))
        heir.commit()
        with contextlib.nullcontext() if mutated else pytest.raises(errors.CommitFailedError):
            for _ in range(2):  # the first meets the connection that is gone
                with contextlib.suppress(errors.BrokerNotAvailableError):
                    zombie.commit()
    commits, claims = audited(conn)
    assert check_claims(claims) == []
    kinds = {anomaly.split(":")[0] for anomaly in check_commits(commits)}
    assert kinds == ({"two owners", "went back"} if mutated else set())
