"""pgq.claim_partitions gives a partition to one member of a group at a time, with an epoch that only rises."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.plugins.sessions import Connection, call, refused, value

from .conftest import Join, committed, generation

Connect = Callable[[], Connection]
Terminate = Callable[[int], None]
A, B, C = ("wide", 0), ("wide", 1), ("wide", 2)


@pytest.fixture(autouse=True)
def wide(wide_topic: str) -> str:
    return wide_topic


def test_a_partition_is_one_members(conn: Connection, join: Join) -> None:
    first, second = join("wide"), join("wide")
    first.heartbeat()
    assert first.claim(A, B) == [A, B]
    assert second.claim(A, B, C) == [C]
    assert first.claim(C) == []
    other = join("wide", group_id="other")
    assert other.claim(A, B, C) == [A, B, C], "groups are apart"


def test_epochs_only_rise(conn: Connection, join: Join, terminate: Terminate) -> None:
    epochs = []
    for end in ("release", "leave", "terminate", "leave"):
        member = join("wide")
        assert member.claim(A) == [A]
        epochs.append(member.epochs[A])
        if end == "terminate":
            terminate(member.pid)
        else:
            member.release(A) if end == "release" else member.leave()
    assert epochs == [1, 2, 3, 4]


def test_offsets_come_with_the_claim(conn: Connection, join: Join) -> None:
    call(
        conn,
        "commit_offsets",
        group_id="g",
        topics=["wide", "wide"],
        partitions=[0, 0],
        offsets=[4, 7],
        metadata=["old", "new"],
    )
    member = join("wide")
    arguments = {"member_id": member.member_id, "generation": member.generation}
    claimed = call(member.session, "claim_partitions", **arguments, topics=["wide", "wide"], partitions=[0, 1])
    assert [row[:5] for row in claimed] == [("wide", 0, 1, 7, "new"), ("wide", 1, 1, None, None)]


def test_nothing_is_claimed_on_an_old_generation(conn: Connection, join: Join) -> None:
    first = join("wide")
    second = join("wide")
    assert first.claim(A) == []
    assert second.claim(A) == [A]
    assert first.heartbeat() == generation(conn)
    assert first.claim(B) == [B]
    first.leave()
    assert first.claim(C) == [], "nor by one who is no member"


def test_who_commits_without_being_a_member_is_waited_for(conn: Connection, join: Join, connect: Connect) -> None:
    member, outsider = join("wide"), connect()
    offsets = {"group_id": "g", "topics": ["wide"], "partitions": [0]}
    with outsider.transaction():
        call(outsider, "commit_offsets", **offsets, offsets=[5])
        assert member.claim(A, B) == [B]
    assert member.claim(A) == [A]
    with refused("PQ035"):
        call(outsider, "commit_offsets", **offsets, offsets=[9])
    assert committed(conn) == {A: 5}


def test_an_open_commit_of_the_owner_before_is_waited_for(conn: Connection, join: Join, connect: Connect) -> None:
    """What it commits is where the next one starts."""
    first, second, application = join("wide"), join("wide"), connect()
    first.heartbeat()
    first.claim(A)
    with application.transaction():
        first.commit({A: 5}, application)
        first.release(A)
        assert second.claim(A) == []
    arguments = {"member_id": second.member_id, "generation": second.generation}
    claimed = call(second.session, "claim_partitions", **arguments, topics=["wide"], partitions=[0])
    assert [row[:5] for row in claimed] == [("wide", 0, 2, 5, "")]


def test_commits_under_an_older_epoch_are_refused(conn: Connection, join: Join, connect: Connect) -> None:
    first = join("wide")
    first.claim(A, B)
    first.commit({A: 1, B: 1})
    first.release(A)
    second = join("wide")
    second.claim(A)
    with refused("PQ036"):
        first.commit({A: 2, B: 2})
    assert committed(conn) == {A: 1, B: 1}, "all or nothing"
    first.commit({B: 2})
    second.commit({A: 3})
    second.epochs[B] = first.epochs[B]
    with refused("PQ036"):
        second.commit({B: 9})
    assert committed(conn) == {A: 3, B: 2}


def test_a_claim_whose_transaction_is_rolled_back_has_no_epoch(conn: Connection, join: Join) -> None:
    member = join("wide")
    with member.session.transaction(force_rollback=True):
        member.claim(A)
    assert value(conn, "select count(*) from pgq.partition_owner") == 0
    with refused("PQ036"):
        member.commit({A: 1})


def test_what_is_not_there_is_left_out(conn: Connection, join: Join) -> None:
    """It may have been deleted meanwhile: the generation is about to change."""
    member = join("wide")
    assert member.claim(("nope", 0), A, ("wide", 5), ("wide", -1)) == [A]


def test_another_sessions_member(conn: Connection, join: Join) -> None:
    member = join("wide")
    arguments = {"member_id": member.member_id, "generation": member.generation}
    assert call(conn, "claim_partitions", **arguments, topics=["wide"], partitions=[0]) == []
    assert member.claim(A) == [A]


def test_an_old_snapshot_is_refused(join: Join) -> None:
    member = join("wide")
    for isolation in ("repeatable read", "serializable"):
        member.session.execute(f"begin isolation level {isolation}")
        with refused("PQ009"):
            member.claim(A)
        member.session.execute("rollback")
