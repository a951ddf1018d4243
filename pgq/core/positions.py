"""Where a consumer stands in each of its partitions. Pure: no I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

from pgq.types import TopicPartition

REREADS = 2
"""How often a hole is read again before the watermark is asked: most are filled within milliseconds."""


class Segment(NamedTuple):
    """Offsets from base_offset on, before end_offset, and the SELECT of a window of them."""

    base_offset: int
    end_offset: int
    window: str


class PartitionState:
    """One partition of a consumer."""

    __slots__ = (
        "added",
        "committed",
        "decided",
        "holes",
        "last",
        "log_end",
        "mean_bytes",
        "more",
        "partition_id",
        "paused",
        "position",
        "restart",
        "safe",
        "segment",
        "topic_id",
        "tp",
        "truncated",
    )

    def __init__(self, tp: TopicPartition, topic_id: int, partition_id: int) -> None:
        self.tp = tp
        self.topic_id = topic_id
        self.partition_id = partition_id
        self.segment = Segment(0, 0, "")
        """The one that was read last. Compaction may merge it with others: then its table holds more, or is gone."""
        self.position: int | None = None
        """The next offset to deliver; None until the group's or the reset policy's is known."""
        self.decided = 0
        """A high watermark that is older than any row read from now on."""
        self.safe = 0
        """What lies below it is on disk, on as many servers as the topic asks for."""
        self.holes = 0
        """How often the record at the position was found missing."""
        self.more = False
        """Whether the last window was full, so that more is there without asking."""
        self.paused = False
        self.log_end: int | None = None
        """As it was last seen."""
        self.added = False
        """Whether the topic was given the partition when the group read it already."""
        self.committed: int | None = None
        """What the group is known to have committed."""
        self.restart: int | None = None
        """Where to read again after a rollback: the position that was found, sought or committed last."""
        self.last: tuple[Any, ...] | None = None
        """The row that was delivered last: a server that does not have it has lost it."""
        self.truncated = False
        """Whether that is so."""
        self.mean_bytes = 16_384.0
        """Of recent records, for how many to ask for; a guess at first."""

    @property
    def is_at_end(self) -> bool:
        """Whether it stood at the log end when that was last seen."""
        return self.position is not None and self.log_end is not None and self.position >= self.log_end

    def begin(self, position: int) -> None:
        """Read from here, and come back here after a rollback."""
        self.advance(position)
        self.restart = position
        self.more = False

    def advance(self, position: int) -> None:
        """Go on from here."""
        self.position = position
        self.holes = 0


class Assignment:
    """The partitions of a consumer; each poll begins with another one, so that none starves."""

    def __init__(self) -> None:
        self._states: dict[TopicPartition, PartitionState] = {}
        self._order: list[PartitionState] = []

    def replace(self, states: list[PartitionState]) -> None:
        """Take these partitions instead; those that stay, and are not of a topic made anew, keep their state."""
        old = self._states
        self._states = {
            state.tp: old[state.tp] if state.tp in old and old[state.tp].partition_id == state.partition_id else state
            for state in states
        }
        self._order = list(self._states.values())

    def __contains__(self, tp: TopicPartition) -> bool:
        return tp in self._states

    def __getitem__(self, tp: TopicPartition) -> PartitionState:
        return self._states[tp]

    def __len__(self) -> int:
        return len(self._states)

    def partitions(self) -> set[TopicPartition]:
        """Return the partitions."""
        return set(self._states)

    def all(self) -> list[PartitionState]:
        """Return the states, in no promised order."""
        return list(self._order)

    def rotate(self) -> list[PartitionState]:
        """Return the states that are not paused, beginning with another one each time."""
        if self._order:
            self._order.append(self._order.pop(0))
        return [state for state in self._order if not state.paused]
