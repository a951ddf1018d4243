"""The future of a record calls back exactly once, however the flush and the caller meet."""

from __future__ import annotations

import threading

import pytest

from pgq import errors
from pgq.core.accumulator import Batch, PartitionBatch
from pgq.drivers.threads import Delivery
from pgq.types import RecordMetadata


def delivery(done: threading.Event) -> tuple[Batch, Delivery]:
    batch = Batch(done, 0)
    part = PartitionBatch("t", 1, 2)
    batch.append(part, (1000, None, b"v", ()), 1)
    part.offsets = (7,)
    return batch, Delivery(batch, part, 0)


def test_result() -> None:
    batch, future = delivery(threading.Event())
    assert not future.done()
    with pytest.raises(errors.RequestTimedOutError):
        future.result(timeout=0)
    with pytest.raises(errors.RequestTimedOutError):
        future.exception(timeout=0)
    batch.finish()
    assert future.done()
    assert future.result() == RecordMetadata("t", 2, 7, 1000)
    assert future.exception() is None


def test_callback_before_the_flush() -> None:
    batch, future = delivery(threading.Event())
    called: list[Delivery] = []
    future.add_done_callback(called.append)
    assert called == []
    batch.finish()
    assert called == [future]


def test_callback_after_the_flush() -> None:
    batch, future = delivery(threading.Event())
    batch.finish()
    called: list[Delivery] = []
    future.add_done_callback(called.append)
    assert called == [future]


def test_callback_while_the_batch_is_finished_by_the_sender() -> None:
    """The sender finishes the batch at the moment at which the application adds its callback."""

    class FinishedWhenAsked(threading.Event):
        asked = False

        def is_set(self) -> bool:
            if not self.asked:
                self.asked = True
                sender = threading.Thread(target=batch.finish)
                sender.start()
                sender.join(1)
            return super().is_set()

    batch, future = delivery(FinishedWhenAsked())
    called: list[Delivery] = []
    future.add_done_callback(called.append)
    assert called == [future]
