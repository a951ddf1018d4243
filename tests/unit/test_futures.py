"""The future of a record calls back exactly once, however the flush and the caller meet."""

from __future__ import annotations

import threading

import pytest

from pgq import errors
from pgq.core.accumulator import Batch, DelayedPart, PartitionBatch
from pgq.drivers.threads import Delivery
from pgq.types import DelayedRecordMetadata, RecordMetadata


def delivery(done: threading.Event) -> tuple[Batch, Delivery[RecordMetadata]]:
    batch = Batch(done, 0, "all")
    part = PartitionBatch("t", 1, 2)
    part.rows.append((1000, None, b"v", ()))
    part.offsets = (7,)
    return batch, Delivery(batch, part, 0)


def finish(batch: Batch) -> None:
    """End a batch as the sender does."""
    batch.done.set()
    for callback in batch.take_callbacks():
        callback()


def test_result() -> None:
    batch, future = delivery(threading.Event())
    assert not future.done()
    with pytest.raises(errors.RequestTimedOutError):
        future.result(timeout=0)
    with pytest.raises(errors.RequestTimedOutError):
        future.exception(timeout=0)
    finish(batch)
    assert future.done()
    assert future.result() == RecordMetadata("t", 2, 7, 1000)
    assert future.exception() is None


def test_result_of_a_delayed_record() -> None:
    batch = Batch(threading.Event(), 0, "all")
    part = DelayedPart("t", 1)
    part.kept = [("10-1", 2, 10), ("11-2", 0, 11)]
    future = Delivery(batch, part, 1)
    finish(batch)
    assert future.result() == DelayedRecordMetadata("t", 0, "11-2", 11)
    part.error = errors.IllegalStateError("no")
    with pytest.raises(errors.IllegalStateError):
        future.result()


def test_callback_before_the_flush() -> None:
    batch, future = delivery(threading.Event())
    called: list[Delivery[RecordMetadata]] = []
    future.add_done_callback(called.append)
    assert called == []
    finish(batch)
    assert called == [future]


def test_callback_after_the_flush() -> None:
    batch, future = delivery(threading.Event())
    finish(batch)
    called: list[Delivery[RecordMetadata]] = []
    future.add_done_callback(called.append)
    assert called == [future]


def test_callback_while_the_batch_is_finished_by_the_sender() -> None:
    """The sender finishes the batch at the moment at which the application adds its callback."""
    together = threading.Barrier(2)
    races = 500

    def send(batches: list[Batch]) -> None:
        for batch in batches:
            together.wait(10)
            finish(batch)

    pairs = [delivery(threading.Event()) for _ in range(races)]
    sender = threading.Thread(target=send, args=[[batch for batch, _ in pairs]])
    sender.start()
    called: list[Delivery[RecordMetadata]] = []
    for _, future in pairs:
        together.wait(10)
        future.add_done_callback(called.append)
    sender.join()
    assert len(called) == races
    assert len({id(future) for future in called}) == races
