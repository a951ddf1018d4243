"""pgq.begin_flush: a flush is appended once, however often it is begun, and not by a producer that was fenced."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.plugins.sessions import TIME_LIMIT_S, Connection, refused, rows, value

from .test_begin_append import insert

Blocked = Callable[[Connection], None]
Taken = dict[tuple[int, int], list[int]]


class Producer:
    """One that flushes by hand."""

    def __init__(self, conn: Connection, transactional_id: str | None = None) -> None:
        self.conn = conn
        ((self.producer_id, self.producer_epoch, self.rotation),) = rows(
            conn, "select * from pgq.init_producer(%s)", transactional_id
        )

    def begin(
        self,
        number: int | None,
        wanted: dict[tuple[int, int], int],
        *,
        repeated: bool = False,
        acks: str = "1",
        newest_ms: int = 0,
    ) -> list[tuple[Any, ...]]:
        """Begin a flush in the open transaction."""
        return rows(
            self.conn,
            "select topic_id, partition, offsets, appended, log_append_ms, current_rotation from pgq.begin_flush("
            "%s::int[], %s::int[], %s::int[], %s::bigint[], %s, %s::bigint, %s::int, %s::bigint, %s::bigint, %s)",
            [topic_id for topic_id, _ in wanted],
            [partition for _, partition in wanted],
            list(wanted.values()),
            [newest_ms] * len(wanted),
            acks,
            None if number is None else self.producer_id,
            self.producer_epoch,
            number,
            self.rotation,
            repeated,
        )

    def flush(self, number: int, wanted: dict[tuple[int, int], int], *, repeated: bool = False) -> tuple[Taken, bool]:
        """Flush as the clients do; return the offsets and whether they were there before."""
        with self.conn.transaction():
            result = self.begin(number, wanted, repeated=repeated)
            appended = {part[3] for part in result}
            if appended == {False} and wanted:
                for topic_id, partition, offsets, *_ in result:
                    insert(self.conn, topic_id, partition, offsets)
            return {(part[0], part[1]): part[2] for part in result}, appended == {True}


@pytest.fixture
def wide(conn: Connection, wide_topic: str) -> int:
    result: int = value(conn, "select topic_id from pgq.topic where name = %s", wide_topic)
    return result


def count(conn: Connection, topic_id: int) -> int:
    result: int = value(conn, f"select count(*) from pgq_log.t{topic_id}")
    return result


def test_a_flush_is_appended_once(conn: Connection, wide: int) -> None:
    producer = Producer(conn)
    first = producer.flush(1, {(wide, 3): 2, (wide, 0): 3})
    assert first == ({(wide, 0): [0, 1, 2], (wide, 3): [0, 1]}, False)
    for _ in range(2):
        assert producer.flush(1, {(wide, 3): 2, (wide, 0): 3}, repeated=True) == (first[0], True)
    assert producer.flush(2, {(wide, 3): 1}) == ({(wide, 3): [2]}, False)
    assert count(conn, wide) == 6


def test_offsets_with_gaps_come_back(conn: Connection, connect: Callable[[], Connection], wide: int) -> None:
    producer = Producer(conn)
    conn.execute(f"alter sequence pgq_log.t{wide}_p1_offset increment 3")
    first = producer.flush(1, {(wide, 1): 4})
    conn.execute(f"alter sequence pgq_log.t{wide}_p1_offset increment 1")
    assert first[0][wide, 1] == [0, 3, 6, 9]
    assert producer.flush(1, {(wide, 1): 4}, repeated=True) == (first[0], True)


def test_numbers_are_each_producers_own(conn: Connection, wide: int) -> None:
    one, other = Producer(conn), Producer(conn)
    assert one.producer_id != other.producer_id
    assert not one.flush(1, {(wide, 0): 1})[1]
    assert not other.flush(1, {(wide, 0): 1}, repeated=True)[1]
    assert count(conn, wide) == 2


def test_rolled_back_it_is_appended_when_begun_again(conn: Connection, wide: int) -> None:
    producer = Producer(conn)
    with conn.transaction(force_rollback=True):
        producer.begin(1, {(wide, 0): 2})
    taken, appended = producer.flush(1, {(wide, 0): 2}, repeated=True)
    assert not appended
    assert count(conn, wide) == 2
    assert producer.flush(1, {(wide, 0): 2}, repeated=True) == (taken, True)


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_begun_again_while_the_first_attempt_runs(
    conn: Connection, connect: Callable[[], Connection], wait_until_blocked: Blocked, wide: int, end: str
) -> None:
    """It waits for the first attempt's end; then it is told to look once more, or appends."""
    producer = Producer(conn)
    conn.execute("begin")
    for topic_id, partition, offsets, *_ in producer.begin(1, {(wide, 0): 2}):
        insert(conn, topic_id, partition, offsets)
    again = connect()
    producer.conn = again
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(producer.flush, 1, {(wide, 0): 2}, repeated=True)
        wait_until_blocked(again)
        conn.execute(end)
        if end == "commit":
            with refused("40001"):
                outcome.result(TIME_LIMIT_S)
            assert producer.flush(1, {(wide, 0): 2}, repeated=True)[1]
        else:
            assert not outcome.result(TIME_LIMIT_S)[1]
    assert count(conn, wide) == 2


def test_unmarked(conn: Connection, wide: int) -> None:
    with conn.transaction():
        ((_, _, offsets, appended, *_),) = Producer(conn).begin(None, {(wide, 0): 2})
        insert(conn, wide, 0, offsets)
    assert not appended
    assert value(conn, "select count(*) from pgq.flush_marker") == 0


def test_a_flush_without_partitions(conn: Connection, wide: int) -> None:
    """One of delayed records alone: its row tells what there is to tell, and it is marked as any other."""
    producer = Producer(conn)
    for repeated in (False, True):
        with conn.transaction(force_rollback=True):
            assert producer.begin(1, {}, repeated=repeated) == [(None, None, None, False, None, producer.rotation)]
    assert producer.flush(1, {}, repeated=True) == ({(None, None): None}, False)
    assert producer.flush(1, {}, repeated=True) == ({(None, None): None}, True)
    assert producer.flush(2, {(wide, 0): 1}) == ({(wide, 0): [0]}, False)
    assert producer.begin(None, {}) == [(None, None, None, False, None, producer.rotation)]
    assert value(conn, "select count(*) from pgq.flush_marker") == 2


def test_a_flush_without_partitions_is_fenced(conn: Connection) -> None:
    first = Producer(conn, "one")
    Producer(conn, "one")
    with refused("PQ031"):
        first.flush(1, {})


@pytest.mark.parametrize("acks, expected", [("0", "off"), ("1", "local"), ("all", "on")])
def test_acks_are_the_transactions_own(conn: Connection, wide: int, acks: str, expected: str) -> None:
    conn.execute("set synchronous_commit = remote_write")
    with conn.transaction():
        Producer(conn).begin(1, {(wide, 0): 1}, acks=acks)
        assert value(conn, "show synchronous_commit") == expected
    assert value(conn, "show synchronous_commit") == "remote_write"


def test_acks_all_leave_a_stronger_setting(conn: Connection, wide: int) -> None:
    conn.execute("set synchronous_commit = remote_apply")
    with conn.transaction():
        Producer(conn).begin(1, {(wide, 0): 1}, acks="all")
        assert value(conn, "show synchronous_commit") == "remote_apply"


def test_a_successor_fences(conn: Connection, connect: Callable[[], Connection], wide: int) -> None:
    old = Producer(conn, "billing")
    assert old.producer_epoch == 0
    old.flush(1, {(wide, 0): 1})
    new = Producer(connect(), "billing")
    assert (new.producer_id, new.producer_epoch) == (old.producer_id, 1)
    with refused("PQ031"):
        old.flush(2, {(wide, 0): 1})
    with refused("PQ031"):
        old.flush(1, {(wide, 0): 1}, repeated=True)
    assert not new.flush(1, {(wide, 0): 1})[1], "its numbers begin anew"
    Producer(connect(), "other").flush(1, {(wide, 0): 1})


def test_a_successor_waits_for_the_flush_in_flight(
    conn: Connection, connect: Callable[[], Connection], wait_until_blocked: Blocked, wide: int
) -> None:
    old = Producer(conn, "billing")
    conn.execute("begin")
    for topic_id, partition, offsets, *_ in old.begin(1, {(wide, 0): 2}):
        insert(conn, topic_id, partition, offsets)
    successor = connect()
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(Producer, successor, "billing")
        wait_until_blocked(successor)
        conn.execute("commit")
        assert outcome.result(TIME_LIMIT_S).producer_epoch == 1
    assert count(conn, wide) == 2, "what was acknowledged is there before the successor starts"


@pytest.mark.parametrize("transactional_id", ["", "x" * 250])
def test_bad_transactional_id_is_refused(conn: Connection, transactional_id: str) -> None:
    with refused("PQ023"):
        Producer(conn, transactional_id)


def rotate(conn: Connection) -> None:
    assert value(conn, "select pgq.rotate_flush_markers('0 s')") is True


def test_markers_are_kept_until_they_are_too_old_to_be_asked_for(conn: Connection, wide: int) -> None:
    producer = Producer(conn)
    first = producer.flush(1, {(wide, 0): 1})
    for _ in range(3):
        rotate(conn)
        assert producer.flush(1, {(wide, 0): 1}, repeated=True) == (first[0], True)
    with refused("PQ032"):
        producer.flush(3, {(wide, 0): 1}, repeated=True)
    rotate(conn)
    with refused("PQ032"):
        producer.flush(1, {(wide, 0): 1}, repeated=True)
    with refused("PQ032"):
        producer.flush(2, {(wide, 0): 1})
    assert count(conn, wide) == 1
    assert value(conn, "select count(*) from pgq.flush_marker") == 0


def test_a_first_attempt_may_be_one_rotation_behind(conn: Connection, wide: int) -> None:
    producer = Producer(conn)
    rotate(conn)
    with conn.transaction():
        ((*_, rotation),) = producer.begin(1, {(wide, 0): 1})
        assert rotation == producer.rotation + 1
    rotate(conn)
    with refused("PQ032"):
        producer.flush(2, {(wide, 0): 1})


def test_rotation_waits_for_its_time(conn: Connection) -> None:
    assert value(conn, "select pgq.rotate_flush_markers()") is False
    assert value(conn, "select rotation from pgq.flush_rotation") == 0


def test_timestamps_too_far_ahead_are_refused(conn: Connection, wide: int) -> None:
    now_ms = value(conn, "select (extract(epoch from clock_timestamp()) * 1000)::bigint")
    with conn.transaction():
        Producer(conn).begin(1, {(wide, 0): 1}, newest_ms=now_ms + 3_590_000)
    with refused("PQ017"), conn.transaction():
        Producer(conn).begin(1, {(wide, 0): 1}, newest_ms=now_ms + 3_610_000)


def test_log_append_time_is_told(conn: Connection, wide: int, wide_topic: str) -> None:
    conn.execute(f"select pgq.alter_topic_config('{wide_topic}', '{{\"message.timestamp.type\": \"LogAppendTime\"}}')")
    now_ms = value(conn, "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint")
    with conn.transaction():
        ((*_, log_append_ms, _),) = Producer(conn).begin(1, {(wide, 0): 1}, newest_ms=9_000_000_000_000_000)
    assert now_ms <= log_append_ms <= now_ms + 60_000


def test_without_standbys_min_insync_replicas_cannot_be_had(conn: Connection, wide: int, wide_topic: str) -> None:
    conn.execute(f"select pgq.alter_topic_config('{wide_topic}', '{{\"min.insync.replicas\": 2}}')")
    with conn.transaction():
        Producer(conn).begin(1, {(wide, 0): 1}, acks="1")
    with refused("PQ029"), conn.transaction():
        Producer(conn).begin(2, {(wide, 0): 1}, acks="all")


def test_unknown_partition_is_refused(conn: Connection, wide: int) -> None:
    with refused("PQ002"), conn.transaction():
        Producer(conn).begin(1, {(wide, 99): 1})
