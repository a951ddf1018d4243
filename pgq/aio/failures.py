"""What a consumer could not process: notes, kept until the commit that moves them is known to have taken place."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pgq.core.retries import error_text
from pgq.drivers.tasks import Lock
from pgq.types import OffsetAndMetadata, TopicPartition

MOST_FAILURES = 500
"""How many failures one commit moves at most."""
_MOST_HOURS = 50
"""To how many hours: each has a table of its own."""


@dataclass(slots=True, eq=False)
class Failure:
    """That a record could not be processed, until its offset is known to be committed."""

    delay_ms: int | None
    """None: it is a dead letter."""
    error: str | None
    attempt: int
    """How often the record was processed in vain."""
    noted_at: float
    replayed: bool
    """Whether the group had committed beyond it, as far as was known."""
    sent: int | None = None
    """The offset that was to be committed together with it, by a commit whose outcome is not known."""

    @property
    def due_at(self) -> float:
        """When to try again: monotonic."""
        return self.noted_at + (self.delay_ms or 0) / 1000


Note = tuple[TopicPartition, int, Failure]
"""A failure, and of which record."""


class Failures:
    """The notes of one consumer. Handlers may note in threads of their own.

    Args:
        counts: the consumer's metrics.
    """

    def __init__(self, counts: dict[str, float]) -> None:
        self._counts = counts
        self._notes: dict[TopicPartition, dict[int, Failure]] = {}
        self._lock = Lock()
        self._sent: dict[TopicPartition, int] = {}
        """How far offsets were stored on connections of the application."""
        self.commit_by = float("inf")
        """When the first that was noted since the last commit is due again."""

    def __len__(self) -> int:
        if not self._notes:
            return 0
        with self._lock:
            return sum(map(len, self._notes.values()))

    def note(
        self,
        tp: TopicPartition,
        offset: int,
        *,
        delay_ms: float | None,
        error: object,
        attempt: int,
        committed: int | None,
    ) -> None:
        """Keep that a record has failed, instead of what was noted on it before.

        Args:
            committed: what the group has committed of the partition, as far as is known.
        """
        delay = None if delay_ms is None else int(delay_ms)
        replayed = offset < max(committed or 0, self._sent.get(tp, 0))
        noted = Failure(delay, error_text(error), attempt, time.monotonic(), replayed)
        with self._lock:
            self._counts["records_dead_lettered_total" if delay is None else "records_retried_total"] += 1
            notes = self._notes.setdefault(tp, {})
            if (before := notes.get(offset)) is not None:
                noted.replayed, noted.sent = before.replayed, before.sent
            notes[offset] = noted
            if delay is not None:
                self.commit_by = min(self.commit_by, noted.due_at)

    def first_due(self) -> float:
        """Return when the first of them is to be tried again: monotonic."""
        with self._lock:
            return min(
                (n.due_at for notes in self._notes.values() for n in notes.values() if n.delay_ms is not None),
                default=float("inf"),
            )

    def before(self, offsets: Mapping[TopicPartition, int]) -> list[Note]:
        """Return what has failed before these offsets, in order by partition."""
        with self._lock:
            return [
                (tp, offset, noted)
                for tp, end in offsets.items()
                for offset, noted in sorted(self._notes.get(tp, {}).items())
                if offset < end
            ]

    def any_before(self, tp: TopicPartition, end: int) -> bool:
        """Whether something has failed before an offset."""
        if not self._notes:
            return False
        with self._lock:
            return any(offset < end for offset in self._notes.get(tp, ()))

    def forget(self, failed: Iterable[Note]) -> float:
        """Drop notes that were stored; return when the first of them is due: monotonic."""
        first = float("inf")
        with self._lock:
            for tp, offset, noted in failed:
                if noted.delay_ms is not None:
                    first = min(first, noted.due_at)
                notes = self._notes.get(tp, {})
                if notes.get(offset) is noted:
                    del notes[offset]
                    if not notes:
                        del self._notes[tp]
        return first

    def forget_from(self, tp: TopicPartition, offset: int) -> None:
        """Drop notes on records that come again."""
        with self._lock:
            notes = self._notes.pop(tp, {})
            if kept := {number: noted for number, noted in notes.items() if number < offset}:
                self._notes[tp] = kept

    def forget_partition(self, tp: TopicPartition) -> None:
        """Drop all that is kept of a partition that is another's now."""
        self.forget_from(tp, 0)
        self._sent.pop(tp, None)

    def sent(self, tp: TopicPartition) -> int | None:
        """Return how far offsets of a partition were stored on connections of the application."""
        return self._sent.get(tp)

    def note_sent(self, tp: TopicPartition, offset: int) -> None:
        """Remember that an offset was stored on a connection of the application."""
        self._sent[tp] = max(offset, self._sent.get(tp, 0))


def split_stored(
    failed: list[Note], committed: Mapping[TopicPartition, int], known: Mapping[TopicPartition, int | None]
) -> tuple[list[Note], list[Note]]:
    """Return those that a commit of unknown outcome has stored, and the others.

    Args:
        committed: what the group has committed now.
        known: what it had committed when that was last known, of the partitions that are read.
    """
    stored: list[Note] = []
    others: list[Note] = []
    for tp, offset, noted in failed:
        now = committed.get(tp)
        if noted.sent is None or now is None:
            is_stored = False
        elif noted.replayed:  # the offset was beyond it before: that says something only if it has changed
            is_stored = now == noted.sent and tp in known and now != known[tp]
        else:
            is_stored = offset < now
        (stored if is_stored else others).append((tp, offset, noted))
    return stored, others


def in_parts(
    given: dict[TopicPartition, OffsetAndMetadata], failed: list[Note]
) -> Iterator[tuple[dict[TopicPartition, OffsetAndMetadata], list[Note]]]:
    """Divide a commit into steps that are not too large: of each partition, what lies before an offset.

    Args:
        failed: in order by partition.
    """
    part: list[Note] = []
    hours: set[int] = set()
    ahead_s = time.time() - time.monotonic()
    left = dict(given)
    for tp, offset, noted in failed:
        hour = -1 if noted.delay_ms is None else int((noted.due_at + ahead_s) // 3600)
        if len(part) == MOST_FAILURES or len(hours | {hour}) > _MOST_HOURS:
            done = {other: left.pop(other) for other in dict.fromkeys(n[0] for n in part) if other != tp}
            if part[-1][0] == tp:
                done[tp] = OffsetAndMetadata(offset, given[tp].metadata)
            yield done, part
            part, hours = [], set()
        part.append((tp, offset, noted))
        hours.add(hour)
    yield left, part


def failure_arguments(failed: list[Note]) -> tuple[Any, ...]:
    """Return the arguments of COMMIT_WITH_FAILURES that COMMIT_OFFSETS has not."""
    now = time.monotonic()
    return (
        [tp.topic for tp, _, _ in failed],
        [tp.partition for tp, _, _ in failed],
        [offset for _, offset, _ in failed],
        [None if f.delay_ms is None else max(0, f.delay_ms - int((now - f.noted_at) * 1000)) for _, _, f in failed],
        [f.error for _, _, f in failed],
        [f.attempt for _, _, f in failed],
        [f.replayed for _, _, f in failed],
    )
