"""Judge a history of sends and polls by Jepsen's names for what can go wrong in a log.

Pure: no I/O, no clock, no randomness. In goes what the clients observed (`Event`s) and what the log tables hold once
everything is over (`Truth`); out comes a `Report`. The names are those of Jepsen's Kafka test (jepsen.tests.kafka):

lost write            an acknowledged record, or one that a reader was given, is not in the final log; or a reader went
                      past the offset of an acknowledged record without ever reading it
duplicate             one value at two offsets, or given twice to a reader that did not seek
poll skip             a reader moved past an offset that holds a record, in a poll or between two, without reading it
nonmonotonic poll     a reader's offsets go back without a seek
inconsistent offsets  one offset with two values, or a value acknowledged at one offset and found at another
aborted read          a value of a rolled-back transaction or savepoint was read or is in the final log
nonmonotonic send     two records of one process in one partition have their offsets in the wrong order
phantom               a value was read, or is in the final log, that nobody sent

What a history must hold for the verdict to mean something: values are unique; every value that may have reached the
server has a `Send`; a reader begins with a `Seek` and the events of one reader stand in its own order.
"""

from __future__ import annotations

import bisect
import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Place = tuple[int, int]
"""A partition and an offset in it."""


class Outcome(enum.StrEnum):
    """What the producer knows about a record.

    OK: acknowledged. FAIL: certainly rolled back. INFO: not known, for example because the connection died in COMMIT.
    """

    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class Kind(enum.StrEnum):
    """An anomaly's name, as Jepsen has it."""

    LOST_WRITE = "lost write"
    DUPLICATE = "duplicate"
    POLL_SKIP = "poll skip"
    NONMONOTONIC_POLL = "nonmonotonic poll"
    INCONSISTENT_OFFSETS = "inconsistent offsets"
    ABORTED_READ = "aborted read"
    NONMONOTONIC_SEND = "nonmonotonic send"
    PHANTOM = "phantom"


@dataclass(frozen=True)
class Send:
    """One record handed to a producer, with what became of it.

    Sends of one `process` stand in the order in which it made them, unless `ordered` is false. `asynchronous`:
    committed with synchronous_commit = off, so an acknowledged record may vanish in a crash after `invoked`.
    """

    process: str
    transaction: str
    partition: int
    value: int
    outcome: Outcome
    offset: int | None = None
    invoked: float = 0.0
    asynchronous: bool = False
    ordered: bool = True


@dataclass(frozen=True)
class Poll:
    """What one poll gave a reader from one partition, in order.

    `position` is the reader's next offset after the poll, when it says so; it may lie beyond the last record, over a
    trailing hole. Without it the position is the offset after the last record.
    """

    reader: str
    partition: int
    records: Sequence[tuple[int, int]]
    position: int | None = None


@dataclass(frozen=True)
class Seek:
    """A reader's position was set: at its start, by a seek, or by a reset after OffsetOutOfRange."""

    reader: str
    partition: int
    offset: int


@dataclass(frozen=True)
class Crash:
    """The server lost what it had not flushed. `time` is read when the server is certainly down."""

    time: float


Event = Send | Poll | Seek | Crash


@dataclass(frozen=True)
class Truth:
    """The log tables' content after the last producer ended: (partition, offset, value); and each partition's start."""

    records: Sequence[tuple[int, int, int]]
    log_start: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Anomaly:
    """One finding. `detail` is a sentence; the other fields are what it is about, where that applies."""

    kind: Kind
    detail: str
    partition: int | None = None
    offset: int | None = None
    value: int | None = None
    reader: str | None = None

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.detail}"


@dataclass(frozen=True)
class Report:
    """The verdict. `vanished`: acknowledged asynchronous commits that a crash took; they count as `info`, not `ok`."""

    ok: int
    fail: int
    info: int
    read: int
    vanished: int
    log: int
    anomalies: tuple[Anomaly, ...]

    @property
    def kinds(self) -> Counter[str]:
        """How many anomalies of each name."""
        return Counter(anomaly.kind.value for anomaly in self.anomalies)

    def summary(self) -> str:
        """Say it in one line."""
        found = ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items())) or "no anomalies"
        return (
            f"ok {self.ok} fail {self.fail} info {self.info} (vanished {self.vanished}) "
            f"log {self.log} read {self.read}: {found}"
        )


def check(events: Iterable[Event], truth: Truth) -> Report:
    """Return every anomaly of the history.

    Which record stands at an offset is taken from the final log and, where the log is silent, from acknowledgements:
    so records that were deleted while a reader was on its way to them count as skipped unless the reader was told (a
    `Seek`). An acknowledged record below the log start is not lost; where its offset is not known and the log start has
    moved, its absence from the log is not judged.

    Raises ValueError if two sends carry one value or a reader polls a partition before its first Seek.
    """
    return _Check(events, truth).report()


class _Check:
    def __init__(self, events: Iterable[Event], truth: Truth) -> None:
        self.truth = truth
        self.sends: dict[int, Send] = {}
        self.reader_events: dict[tuple[str, int], list[Poll | Seek]] = defaultdict(list)
        crashes: list[float] = []
        for event in events:
            if isinstance(event, Send):
                if event.value in self.sends:
                    raise ValueError(f"value {event.value} was sent twice: values of a history must be unique")
                self.sends[event.value] = event
            elif isinstance(event, Crash):
                crashes.append(event.time)
            else:
                self.reader_events[event.reader, event.partition].append(event)
        self.last_crash = max(crashes, default=float("-inf"))
        self.anomalies: list[Anomaly] = []

        self.places: dict[int, dict[Place, str]] = defaultdict(dict)
        self.seen: dict[Place, dict[int, str]] = defaultdict(dict)
        for partition, offset, value in truth.records:
            self.places[value].setdefault((partition, offset), "the final log")
            self.seen[partition, offset].setdefault(value, "the final log")
        self.vanished = {value for value, send in self.sends.items() if self._vanished(send)}
        self.read: set[int] = set()
        self.expected, self.expected_offsets = self._expected()

    def report(self) -> Report:
        self._check_readers()
        self._check_log()
        self._check_send_order()
        self._check_inconsistent()
        outcomes = Counter(send.outcome for send in self.sends.values())
        return Report(
            ok=outcomes[Outcome.OK] - len(self.vanished),
            fail=outcomes[Outcome.FAIL],
            info=outcomes[Outcome.INFO] + len(self.vanished),
            read=len(self.read),
            vanished=len(self.vanished),
            log=len(self.truth.records),
            anomalies=tuple(self.anomalies),
        )

    def _vanished(self, send: Send) -> bool:
        return (
            send.outcome is Outcome.OK
            and send.asynchronous
            and send.invoked <= self.last_crash
            and send.value not in self.places
            and not self._below_log_start(send)
        )

    def _below_log_start(self, send: Send) -> bool:
        start = self.truth.log_start.get(send.partition, 0)
        return start > 0 and (send.offset is None or send.offset < start)

    def _acknowledged(self) -> Iterable[Send]:
        return (s for s in self.sends.values() if s.outcome is Outcome.OK and s.value not in self.vanished)

    def _expected(self) -> tuple[dict[int, dict[int, int]], dict[int, list[int]]]:
        """Value by offset for each partition, and the offsets sorted."""
        expected: dict[int, dict[int, int]] = defaultdict(dict)
        for partition, offset, value in self.truth.records:
            expected[partition][offset] = value
        for send in self._acknowledged():
            if send.offset is not None:
                expected[send.partition].setdefault(send.offset, send.value)
        return expected, {partition: sorted(offsets) for partition, offsets in expected.items()}

    def _found(
        self,
        kind: Kind,
        detail: str,
        *,
        partition: int | None = None,
        offset: int | None = None,
        value: int | None = None,
        reader: str | None = None,
    ) -> None:
        self.anomalies.append(Anomaly(kind, detail, partition, offset, value, reader))

    def _check_readers(self) -> None:
        for (reader, partition), events in sorted(self.reader_events.items()):
            self._check_reader(reader, partition, events)

    def _check_reader(self, reader: str, partition: int, events: Sequence[Poll | Seek]) -> None:
        position: int | None = None
        given: set[int] = set()
        read: set[int] = set()
        passed: set[int] = set()
        for event in events:
            if isinstance(event, Seek):
                position = event.offset
                given = set()
                continue
            if position is None:
                raise ValueError(f"reader {reader} polls partition {partition} before its first Seek")
            start = position
            for offset, value in event.records:
                self._check_read(reader, partition, offset, value)
                if offset < position:
                    self._found(
                        Kind.NONMONOTONIC_POLL,
                        f"reader {reader} at {partition}/{position} was given offset {offset}",
                        partition=partition,
                        offset=offset,
                        value=value,
                        reader=reader,
                    )
                if value in given:
                    self._found(
                        Kind.DUPLICATE,
                        f"reader {reader} was given value {value} twice, again at {partition}/{offset}",
                        partition=partition,
                        offset=offset,
                        value=value,
                        reader=reader,
                    )
                given.add(value)
                position = max(position, offset + 1)
            if event.position is not None:
                if event.position < position:
                    self._found(
                        Kind.NONMONOTONIC_POLL,
                        f"reader {reader} at {partition}/{position} had its position set back to {event.position}",
                        partition=partition,
                        offset=event.position,
                        reader=reader,
                    )
                position = max(position, event.position)
            passed.update(self._check_skips(event, start, position))
            read.update(value for _, value in event.records)
        self._check_lost_to(reader, partition, passed, read)
        self.read |= read

    def _check_read(self, reader: str, partition: int, offset: int, value: int) -> None:
        self._check_sent(f"reader {reader}", partition, offset, value, reader)
        self.seen[partition, offset].setdefault(value, f"reader {reader}")
        self.places[value].setdefault((partition, offset), f"reader {reader}")

    def _check_sent(self, who: str, partition: int, offset: int, value: int, reader: str | None) -> None:
        send = self.sends.get(value)
        if send is None:
            kind, detail = Kind.PHANTOM, f"{who} has value {value} at {partition}/{offset}, which nobody sent"
        elif send.outcome is Outcome.FAIL:
            kind = Kind.ABORTED_READ
            detail = f"{who} has value {value} at {partition}/{offset}, which {send.transaction} rolled back"
        else:
            return
        self._found(kind, detail, partition=partition, offset=offset, value=value, reader=reader)

    def _check_skips(self, poll: Poll, start: int, stop: int) -> Sequence[int]:
        """Report what the reader did not get of [start, stop); return every offset with a record there."""
        offsets = self.expected_offsets.get(poll.partition, [])
        inside = offsets[bisect.bisect_left(offsets, start) : bisect.bisect_left(offsets, stop)]
        given = {offset for offset, _ in poll.records}
        for offset in inside:
            if offset not in given:
                value = self.expected[poll.partition][offset]
                self._found(
                    Kind.POLL_SKIP,
                    f"reader {poll.reader} moved from {poll.partition}/{start} to {stop} without value {value} at "
                    f"{offset}",
                    partition=poll.partition,
                    offset=offset,
                    value=value,
                    reader=poll.reader,
                )
        return inside

    def _check_lost_to(self, reader: str, partition: int, passed: Iterable[int], read: set[int]) -> None:
        for offset in sorted(passed):
            value = self.expected[partition][offset]
            send = self.sends.get(value)
            if value not in read and send is not None and send.outcome is Outcome.OK:
                self._found(
                    Kind.LOST_WRITE,
                    f"reader {reader} went past {partition}/{offset} and never read value {value}, acknowledged to "
                    f"{send.process}",
                    partition=partition,
                    offset=offset,
                    value=value,
                    reader=reader,
                )

    def _check_log(self) -> None:
        for partition, offset, value in self.truth.records:
            self._check_sent("the final log", partition, offset, value, None)
        in_log = {value for _, _, value in self.truth.records}
        for send in self._acknowledged():
            if send.value not in in_log and not self._below_log_start(send):
                self._found(
                    Kind.LOST_WRITE,
                    f"value {send.value}, acknowledged to {send.process} at {send.partition}/{send.offset}, "
                    "is not in the final log",
                    partition=send.partition,
                    offset=send.offset,
                    value=send.value,
                )
        for value, places in self.places.items():
            sent = self.sends.get(value)
            if value in in_log or sent is None or self._below_log_start(sent):
                continue
            if sent.outcome is Outcome.INFO or value in self.vanished:
                (partition, offset), who = next(iter(places.items()))
                self._found(
                    Kind.LOST_WRITE,
                    f"{who} read value {value} at {partition}/{offset}, and it is not in the final log",
                    partition=partition,
                    offset=offset,
                    value=value,
                )
        log_places = Counter(value for _, _, value in self.truth.records)
        for value, places in self.places.items():
            if len(places) > 1 or log_places[value] > 1:
                listed = ", ".join(f"{p}/{o} ({who})" for (p, o), who in sorted(places.items()))
                self._found(Kind.DUPLICATE, f"value {value} stands at {listed}", value=value)

    def _check_send_order(self) -> None:
        last: dict[tuple[str, int], Send] = {}
        for send in self._acknowledged():
            if send.offset is None or not send.ordered:
                continue
            before = last.get((send.process, send.partition))
            if before is not None and before.offset is not None and send.offset <= before.offset:
                self._found(
                    Kind.NONMONOTONIC_SEND,
                    f"{send.process} sent {before.value} before {send.value} and got {send.partition}/{before.offset} "
                    f"before {send.offset}",
                    partition=send.partition,
                    offset=send.offset,
                    value=send.value,
                )
            last[send.process, send.partition] = send

    def _check_inconsistent(self) -> None:
        for send in self._acknowledged():
            if send.offset is not None:
                self.seen[send.partition, send.offset].setdefault(send.value, f"the acknowledgement to {send.process}")
        for (partition, offset), values in sorted(self.seen.items()):
            if len(values) > 1:
                listed = ", ".join(f"{value} ({who})" for value, who in values.items())
                self._found(
                    Kind.INCONSISTENT_OFFSETS,
                    f"{partition}/{offset} holds {listed}",
                    partition=partition,
                    offset=offset,
                )
        for send in self._acknowledged():
            for partition, offset in self.places.get(send.value, {}):
                if partition != send.partition or (send.offset is not None and offset != send.offset):
                    self._found(
                        Kind.INCONSISTENT_OFFSETS,
                        f"value {send.value} was acknowledged at {send.partition}/{send.offset} and stands at "
                        f"{partition}/{offset}",
                        partition=partition,
                        offset=offset,
                        value=send.value,
                    )
