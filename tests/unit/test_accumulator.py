"""What the accumulator buffers comes out in order, in batches that are full, due, or forced."""

from __future__ import annotations

import threading

import pytest

from pgq.core.accumulator import (
    MAX_HOURS,
    MAX_PARTITIONS,
    RECORD_OVERHEAD,
    Accumulator,
    Batch,
    DelayedPart,
    PartitionBatch,
)
from pgq.core.copy import Row
from pgq.core.metadata import TopicMetadata
from pgq.core.rows import DelayedRow

LINGER_S = 5.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def accumulator(batch_size: int = 1000, clock: Clock | None = None) -> Accumulator:
    return Accumulator(linger_s=LINGER_S, batch_size=batch_size, new_event=threading.Event, clock=clock or Clock())


def row(value: bytes = b"") -> Row:
    return (0, None, value, (), 0)


def add(
    buffer: Accumulator,
    topic_id: int,
    partition: int,
    size: int,
    record: Row = (0, None, b"", (), 0),
    acks: str = "all",
) -> tuple[Batch, PartitionBatch, int, bool]:
    """Buffer a record; partition 7 of topic 2 has the id 2007."""
    return buffer.add(known(topic_id), partition, record, size, acks)


def known(topic_id: int) -> TopicMetadata:
    partition_ids = tuple(range(topic_id * 1000, topic_id * 1000 + 1000))
    return TopicMetadata(f"topic {topic_id}", topic_id, partition_ids, 1_048_576, "producer", 3_600_000, False, 0.0)


def add_delayed(
    buffer: Accumulator, topic_id: int, size: int, due_ms: int = 0, acks: str = "all"
) -> tuple[Batch, DelayedPart, int, bool]:
    delayed = DelayedRow(f"topic {topic_id}", 0, "murmur2", None, row(), due_ms)
    return buffer.add_delayed(known(topic_id), delayed, size, acks)


def test_nothing_is_ready_when_nothing_is_buffered() -> None:
    assert accumulator().wait_s(0) is None
    assert accumulator().force() == []


def test_batch_is_ready_when_due(clock: Clock) -> None:
    buffer = accumulator(clock=clock)
    clock.now = 100
    batch, _, _, wake = add(buffer, 1, 0, 10)
    assert wake, "the sender has to know when the first record is due"
    assert buffer.wait_s(101) == LINGER_S - 1
    clock.now = 103
    assert not add(buffer, 1, 0, 10)[3]
    assert buffer.wait_s(104) == LINGER_S - 4, "a later record does not postpone it"
    assert buffer.wait_s(106) == 0
    assert buffer.first() is batch


def test_batch_is_ready_when_full() -> None:
    buffer = accumulator(batch_size=2 * (400 + RECORD_OVERHEAD))
    first, _, _, _ = add(buffer, 1, 0, 400)
    assert buffer.wait_s(0) == LINGER_S
    assert add(buffer, 1, 0, 400)[3]
    assert buffer.wait_s(0) == 0
    second, _, _, _ = add(buffer, 1, 0, 400)
    assert second is not first
    assert buffer.first() is first


def test_batch_is_ready_when_forced() -> None:
    buffer = accumulator()
    batch, _, _, _ = add(buffer, 1, 0, 10)
    assert buffer.force() == [batch]
    assert buffer.wait_s(0) == 0
    assert add(buffer, 1, 0, 10)[0] is not batch


def test_batch_that_is_being_flushed_grows_no_more() -> None:
    buffer = accumulator()
    batch, _, _, _ = add(buffer, 1, 0, 10)
    assert buffer.first() is batch
    later, _, _, _ = add(buffer, 1, 0, 10)
    assert later is not batch
    assert buffer.force() == [batch, later], "a flush waits for both"


def test_records_of_a_partition_keep_their_order() -> None:
    buffer = accumulator(batch_size=10_000)
    places = {}
    for i in range(30):
        _, part, index, _ = add(buffer, 1, i % 3, 1, row(b"%d" % i))
        places[i] = (part.partition, index)
    (batch,) = buffer.force()
    assert [[r[2] for r in batch.parts[1000 + p].rows] for p in range(3)] == [
        [b"%d" % i for i in range(p, 30, 3)] for p in range(3)
    ]
    assert places[7] == (1, 2)


def test_a_batch_has_a_bounded_number_of_partitions() -> None:
    buffer = accumulator(batch_size=1_000_000)
    for i in range(MAX_PARTITIONS):
        add(buffer, 1 + i % 3, i, 10)
    batch, part, index, wake = add(buffer, 9, 0, 10)
    first, second = buffer.force()
    assert (len(first.parts), len(second.parts)) == (MAX_PARTITIONS, 1)
    assert (batch, part, index, wake) == (second, second.parts[9000], 0, True)
    assert buffer.bytes == (MAX_PARTITIONS + 1) * (10 + RECORD_OVERHEAD)


def test_bytes_are_counted_until_the_batch_is_done() -> None:
    buffer = accumulator()
    batch, _, _, _ = add(buffer, 1, 0, 10)
    assert buffer.first() is batch
    add(buffer, 1, 0, 20)
    assert buffer.bytes == 30 + 2 * RECORD_OVERHEAD
    buffer.remove(batch)
    assert buffer.bytes == 20 + RECORD_OVERHEAD


def test_headers_are_noted() -> None:
    buffer = accumulator()
    _, plain, _, _ = add(buffer, 1, 0, 10)
    _, headed, _, _ = add(buffer, 1, 1, 10, (0, None, None, (("h", None),), 0))
    assert (plain.has_headers, headed.has_headers) == (False, True)


def test_other_acks_begin_another_batch() -> None:
    buffer = accumulator()
    first = add(buffer, 1, 0, 10, acks="1")[0]
    second, _, _, wake = add(buffer, 1, 0, 10, acks="all")
    assert second is not first
    assert wake, "the first is ready now"
    assert buffer.first() is first
    assert buffer.wait_s(0) == 0
    assert [batch.acks for batch in buffer.force()] == ["1", "all"]
    assert add(buffer, 1, 0, 10, acks="all")[0] is not second, "in order, though the acks are the same"


def test_delayed_records_stand_beside_the_others() -> None:
    buffer = accumulator()
    batch, part, index, wake = add_delayed(buffer, 1, 10)
    assert (index, wake) == (0, True), "the sender has to know when the first record is due"
    assert buffer.wait_s(0) == LINGER_S
    assert add(buffer, 1, 0, 10)[0] is batch
    assert add_delayed(buffer, 1, 10)[:3] == (batch, part, 1)
    assert add_delayed(buffer, 2, 10)[2] == 0
    assert [len(part.rows) for part in batch.parts.values()] == [1]
    assert [(part.topic_id, len(part.rows)) for part in batch.delayed.values()] == [(1, 2), (2, 1)]
    assert buffer.bytes == batch.size == 4 * (10 + RECORD_OVERHEAD)
    assert buffer.first() is batch
    buffer.remove(batch)
    assert buffer.bytes == 0


def test_delayed_records_fill_a_batch() -> None:
    buffer = accumulator(batch_size=2 * (400 + RECORD_OVERHEAD))
    first = add(buffer, 1, 0, 400)[0]
    batch, _, _, wake = add_delayed(buffer, 1, 400)
    assert (batch, wake) == (first, True)
    assert buffer.wait_s(0) == 0
    assert add_delayed(buffer, 1, 400)[0] is not first
    assert add_delayed(buffer, 1, 10, acks="1")[3], "other acks begin another batch"
    assert [b.acks for b in buffer.force()] == ["all", "all", "1"]


def test_delayed_records_of_a_batch_are_due_in_a_bounded_number_of_hours() -> None:
    buffer = accumulator(batch_size=1_000_000)
    hour_ms = 3_600_000
    for i in range(MAX_HOURS):
        for ms in (0, hour_ms - 1):
            add_delayed(buffer, 1, 10, i * hour_ms + ms)
    batch, _, index, wake = add_delayed(buffer, 1, 10, MAX_HOURS * hour_ms)
    first, second = buffer.force()
    assert (batch, index, wake) == (second, 0, True)
    assert (len(first.delayed[1].rows), len(second.delayed[1].rows)) == (2 * MAX_HOURS, 1)
