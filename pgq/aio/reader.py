"""Reads partitions in order without a skip: positions, windows, and what to do where a record is missing."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from pgq import errors
from pgq.aio.client import READ_COMMITTED, AsyncClient
from pgq.core import records, statements
from pgq.core.durations import duration_ms
from pgq.core.positions import REREADS, Assignment, PartitionState, Segment
from pgq.drivers.tasks import Deadline, Mutex
from pgq.serde import deserializer
from pgq.types import ConsumerRecord, Deserializer, OffsetAndMetadata, OffsetAndTimestamp, TopicPartition

logger = logging.getLogger("pgq")

_ASK_EVERY_S = 0.1
"""How long a full window is taken for a sign that more is there, without a look at log start and log end."""
_REPLICAS_TIMEOUT_MS = 200
"""How long one poll waits for standbys to have what was read; then the next one reads it again."""
AWAY = (errors.BrokerNotAvailableError, errors.RequestTimedOutError, errors.NotLeaderError, errors.DatabaseError)
"""Errors that may pass when the server is there again."""
_RESETS = ("earliest", "latest", "none")
_BY_DURATION = "by_duration:"
_MOST_BACK_MS = 100 * 366 * 86_400_000


def _reset_policy(text: str) -> str | int:
    """Return the policy; of one by duration, how many milliseconds to go back."""
    if isinstance(text, str) and text.startswith(_BY_DURATION):
        back_ms = duration_ms(text.removeprefix(_BY_DURATION))
        if back_ms > _MOST_BACK_MS:
            raise errors.InvalidRequestError(f"auto_offset_reset {text!r} goes back more than 100 years")
        return back_ms
    if text not in _RESETS:
        raise errors.InvalidRequestError(
            f"auto_offset_reset must be one of {_RESETS} or by_duration:PnDTnHnMnS, not {text!r}"
        )
    return text


def check_at_least(least: int, **options: float) -> None:
    """Refuse options that are smaller."""
    for name, given in options.items():
        if not isinstance(given, int | float) or isinstance(given, bool) or not given >= least:
            raise errors.InvalidRequestError(f"{name} must be {least:,} or more, not {given!r}")


def check_counts(least: int, **options: int) -> None:
    """Refuse options that are smaller, or no whole numbers."""
    for name, given in options.items():
        if not isinstance(given, int) or isinstance(given, bool) or given < least:
            raise errors.InvalidRequestError(f"{name} must be a whole number, {least:,} or more, not {given!r}")


def is_offset(given: object) -> bool:
    """Whether it is a number that an offset can be."""
    return isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**63


def listed(partitions: Iterable[TopicPartition]) -> str:
    """Return their names for a sentence."""
    return ", ".join(f"{topic}-{partition}" for topic, partition in sorted(partitions)) or "nothing"


class _Lost(NamedTuple):
    """A segment that could not be read."""

    base_offset: int
    error: errors.PgqError


class AsyncReader(AsyncClient):
    """What a consumer is without its group: partitions, where it stands in them, and reading on."""

    _settings = (
        # windows of one segment by its primary key: a plan kept from when the segment was small must not scan it all
        "set plan_cache_mode = force_generic_plan",
        "set enable_seqscan = off",
        "set enable_bitmapscan = off",
        READ_COMMITTED,
    )

    def __init__(
        self,
        dsn: str | None,
        *,
        group_id: str | None,
        auto_offset_reset: str,
        request_timeout_ms: float,
        fetch_max_bytes: int,
        max_partition_fetch_bytes: int,
        max_decompressed_bytes: int,
        key_deserializer: Deserializer | str | type | None,
        value_deserializer: Deserializer | str | type | None,
    ) -> None:
        super().__init__(dsn)
        self._group_id = group_id
        self._reset_policy = _reset_policy(auto_offset_reset)
        check_at_least(1, request_timeout_ms=request_timeout_ms)
        check_counts(
            1,
            fetch_max_bytes=fetch_max_bytes,
            max_partition_fetch_bytes=max_partition_fetch_bytes,
            max_decompressed_bytes=max_decompressed_bytes,
        )
        self._request_timeout_s = request_timeout_ms / 1000
        self._fetch_max_bytes = fetch_max_bytes
        self._max_partition_fetch_bytes = max_partition_fetch_bytes
        self._max_decompressed_bytes = max_decompressed_bytes
        self._key_deserializer = deserializer("key", key_deserializer)
        self._value_deserializer = deserializer("value", value_deserializer)
        self._broken: Callable[[Exception], Any] | None = None
        """Makes what stands for a value that cannot be decompressed; None to raise."""
        self._assignment = Assignment()
        self._retry_topics: frozenset[str] = frozenset()
        """Those of the group: they are read from their beginning where nothing is committed, whatever the policy."""
        self._asked_at = 0.0
        self._out_of_range: dict[TopicPartition, errors.OffsetOutOfRangeError] = {}
        """Partitions to seek in, which the application has not been told of: others had records."""
        self._leader_epoch: int | None = None
        self._mutex = Mutex()

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the log starts: the first offsets still readable.

        Raises:
            UnknownTopicError, UnknownPartitionError
        """
        wanted = [TopicPartition(*tp) for tp in partitions]
        ids = [state.partition_id for state in await self._make_states(wanted)]
        rows = await self._fetch(statements.PARTITION_OFFSETS, ids)
        return {tp: row[0] for tp, row in zip(wanted, rows, strict=True)}

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the high watermarks: the first offsets that readers do not reach yet.

        Raises:
            UnknownTopicError, UnknownPartitionError
        """
        wanted = [TopicPartition(*tp) for tp in partitions]
        rows = await self._fetch(statements.HIGH_WATERMARKS, [tp[0] for tp in wanted], [tp[1] for tp in wanted])
        return {tp: row[0] for tp, row in zip(wanted, rows, strict=True)}

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Return for each partition the first record of that time (ms since 1970) or later, or None.

        Raises:
            UnknownTopicError, UnknownPartitionError
        """
        result: dict[TopicPartition, OffsetAndTimestamp | None] = {}
        for (topic, partition), timestamp_ms in timestamps.items():
            tp = TopicPartition(topic, partition)
            (state,) = await self._make_states([tp])
            offset = (await self._fetch(statements.OFFSETS_FOR_TIMES, topic, partition, timestamp_ms))[0][0]
            rows = [] if offset is None else await self._window(state, offset, 1)
            result[tp] = OffsetAndTimestamp(offset, rows[0][1]) if rows else None
        return result

    # what is below needs no transaction: every statement is one

    async def _connection(self) -> Any:
        before = self._raw_connection
        connection = await super()._connection()
        if connection is not before:
            await self._meet_server(connection)
        return connection

    async def _meet_server(self, connection: Any) -> None:
        """Doubt what was known of the server: it may be another, or the same after a crash."""
        for state in self._assignment.all():
            state.decided = state.safe = 0
        epoch = (await connection.fetch(statements.LEADER_EPOCH))[0][0]
        if self._leader_epoch is not None and epoch != self._leader_epoch:
            for state in self._assignment.all():
                state.segment = Segment(0, 0, "")
                await self._compare_last(connection, state)
        self._leader_epoch = epoch

    async def _compare_last(self, connection: Any, state: PartitionState) -> None:
        """See whether a new leader has the record that was delivered last; if not, its log is another from there on.

        Offsets that the group committed need no such look: a server that has them has all records before them.
        """
        if state.last is None or state.position is None:
            return
        offset = state.last[0]
        (log_start, _), *_ = await connection.fetch(statements.PARTITION_OFFSETS, [state.partition_id])
        if log_start is None or offset < log_start:
            return
        base, _ = (await connection.fetch(statements.SEGMENT_AT, state.partition_id, offset))[0]
        rows = []
        if base is not None:
            window = statements.fetch_window(state.topic_id, state.tp.partition, base)
            try:
                rows = await connection.fetch(window, offset, offset + 1, 1)
            except errors.UnknownTopicError:
                return  # deleted meanwhile
        if not rows or tuple(rows[0]) != state.last:
            state.truncated = True

    async def _fetch(self, statement: str, *args: Any) -> list[Any]:
        """Run a statement, alone and within its time, on a connection that is made anew if it was lost."""
        rows: list[Any] = (await self._run(None, statement, *args))[1]
        return rows

    async def _run(self, session: Any, statement: str, *args: Any) -> tuple[Any, list[Any]]:
        """Run a statement on the session given, or raise if that was lost; return the session and the rows."""
        async with self._mutex:
            connection = await self._connection()
            if session is not None and connection is not session:
                raise errors.BrokerNotAvailableError("the session was lost: a new one has to join the group again")
            async with self._in_time(connection):
                return connection, await connection.fetch(statement, *args)

    @asynccontextmanager
    async def _in_time(self, connection: Any) -> AsyncIterator[None]:
        """Give up a connection that does not answer in time, or that an interruption has left in the middle of it."""
        try:
            async with Deadline(connection, self._request_timeout_s):
                yield
        except errors.RequestTimedOutError:
            connection.abort()
            raise
        except BaseException:
            connection.abandon_if_busy()
            raise

    async def _make_states(self, partitions: list[TopicPartition], *, known: bool = True) -> list[PartitionState]:
        """Return the states of partitions, new ones for those that are not assigned, or for all if not `known`."""
        topics: dict[str, tuple[int, list[int]]] = {}
        states = []
        for tp in partitions:
            topic, partition = tp
            if known and tp in self._assignment:
                states.append(self._assignment[tp])
                continue
            if topic not in topics:
                topic_id, partition_ids, *_ = (await self._fetch(statements.TOPIC_METADATA, topic))[0]
                topics[topic] = topic_id, partition_ids
            topic_id, partition_ids = topics[topic]
            if not isinstance(partition, int) or not 0 <= partition < len(partition_ids):
                raise errors.UnknownPartitionError(
                    f"unknown partition {partition} of topic {topic!r}: it has partitions 0 to {len(partition_ids) - 1}"
                )
            states.append(PartitionState(tp, topic_id, partition_ids[partition]))
        return states

    def _state(self, tp: TopicPartition) -> PartitionState:
        tp = TopicPartition(*tp)
        if tp not in self._assignment:
            raise errors.IllegalStateError(f"{tp} is not assigned to this consumer: assign it, or name its topic")
        return self._assignment[tp]

    async def _committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        if self._group_id is None:
            raise errors.InvalidGroupIdError("there is no group: give the consumer a group_id")
        wanted = list(partitions)
        rows = await self._fetch(
            statements.COMMITTED_OFFSETS, self._group_id, [tp[0] for tp in wanted], [tp[1] for tp in wanted]
        )
        return {TopicPartition(row[0], row[1]): OffsetAndMetadata(row[2], row[3]) for row in rows}

    async def _find_positions(self) -> list[PartitionState]:
        """Give a position to every partition that has none: the committed offset, else by the reset policy.

        Returns:
            The latter.
        """
        missing = [state for state in self._assignment.all() if state.position is None]
        if not missing:
            return []
        committed = await self._committed([s.tp for s in missing]) if self._group_id is not None else {}
        by_policy = [state for state in missing if state.tp not in committed]
        for state in missing:
            if state.tp in committed:
                state.begin(committed[state.tp].offset)
                state.committed = state.position
        if retried := [state.tp for state in by_policy if state.tp.topic in self._retry_topics]:
            for tp, offset in (await self.beginning_offsets(retried)).items():
                self._assignment[tp].begin(offset)
        if others := [state for state in by_policy if state.position is None]:
            await self._reset(
                others,
                errors.NoOffsetForPartitionError(
                    f"no committed offset for {listed(s.tp for s in others)}, and auto_offset_reset is 'none': seek, or"
                    " choose a policy",
                    (s.tp for s in others),
                ),
            )
        return by_policy

    async def _reset(self, states: list[PartitionState], error: errors.PgqError) -> None:
        """Move partitions to where auto_offset_reset says; raise the error if it is "none"."""
        if self._reset_policy == "none":
            raise error
        partitions = [state.tp for state in states]
        if self._reset_policy == "earliest":
            found = await self.beginning_offsets(partitions)
        else:
            found = await self.end_offsets(partitions)
        if isinstance(self._reset_policy, int):
            topics, numbers = [tp.topic for tp in partitions], [tp.partition for tp in partitions]
            rows = await self._fetch(statements.OFFSETS_FOR_AGE, topics, numbers, self._reset_policy)
            found |= {tp: row[0] for tp, row in zip(partitions, rows, strict=True) if row[0] is not None}
        if added := [state.tp for state in states if state.added or state.tp.topic in self._retry_topics]:
            # "latest" would skip what came before the group knew of the partition
            found |= await self.beginning_offsets(added)
        for state in states:
            if isinstance(error, errors.OffsetOutOfRangeError):
                logger.warning("%s goes on at offset %d: %s", state.tp, found[state.tp], error)
            state.added = False
            state.begin(found[state.tp])
            state.truncated = False
            state.last = None

    async def _read_all(
        self, result: dict[TopicPartition, list[ConsumerRecord]], states: list[PartitionState], limit: int
    ) -> None:
        """Read on where there is more, until there are `limit` records or enough bytes.

        Raises:
            OffsetOutOfRangeError: of some partitions, when the others have nothing, or had it at the last call.
        """
        self._raise_out_of_range(states)
        now = time.monotonic()
        if now - self._asked_at > _ASK_EVERY_S:
            for state in states:
                state.more = False
        log_ends: dict[TopicPartition, int] | None = None
        bytes_left = float(self._fetch_max_bytes)
        session = self._raw_connection
        windows: list[tuple[PartitionState, list[Any], bool]] = []
        for state in states:
            if limit <= 0 or bytes_left <= 0:
                break
            if not state.more:
                if log_ends is None:
                    self._asked_at = now
                    log_ends = await self._look([s for s in states if not s.more])
                if state.position is None or state.position >= log_ends.get(state.tp, 0):
                    continue
            most = min(bytes_left, self._max_partition_fetch_bytes) / state.mean_bytes
            wanted = max(1, min(limit, int(most)))
            rows = await self._read(state, wanted)
            if rows:
                windows.append((state, rows, len(rows) == wanted))
                limit -= len(rows)
                bytes_left -= len(rows) * state.mean_bytes
        # in one step for all of them
        unsafe = [(state, is_full) for state, rows, is_full in windows if rows[-1][0] >= state.safe]
        held_back = await self._secure(unsafe, session) if unsafe else ()
        for state, rows, is_full in windows:
            if state not in held_back:
                self._deliver(result, state, rows)
                state.more = is_full or state.position == state.segment.end_offset
        if not result:
            self._raise_out_of_range(states)

    async def _reset_or_note(self, state: PartitionState, error: errors.OffsetOutOfRangeError) -> None:
        """Move a partition, or have it said when the others have been read."""
        try:
            await self._reset([state], error)
        except errors.OffsetOutOfRangeError:
            self._out_of_range[state.tp] = error

    def _raise_out_of_range(self, states: list[PartitionState]) -> None:
        """Say of which partitions the position is out of range, each time that it was found."""
        noted, self._out_of_range = self._out_of_range, {}
        found = [noted[state.tp] for state in states if state.tp in noted]
        if found:
            # of several, the first sentence and all names
            raise errors.OffsetOutOfRangeError(str(found[0]), (tp for error in found for tp in error.partitions))

    async def _look(self, states: list[PartitionState]) -> dict[TopicPartition, int]:
        """Return the log ends of some partitions; give new positions to those that are out of range."""
        rows = await self._fetch(statements.PARTITION_OFFSETS, [s.partition_id for s in states])
        log_ends: dict[TopicPartition, int] = {}
        for state, (log_start, log_end) in zip(states, rows, strict=True):
            if log_start is None:
                self._meet_deleted(state)
                continue
            log_ends[state.tp] = state.log_end = log_end
            if state.truncated:
                why = (
                    f"{state.tp} has lost records that were delivered, before position {state.position}, in a"
                    f" failover: leader epoch {self._leader_epoch} does not have them. Seek to another offset"
                )
            elif await self._is_out_of_range(state, log_start, log_end):
                why = (
                    f"position {state.position} of {state.tp} is out of range {log_start} to {log_end}:"
                    " seek to another offset"
                )
            else:
                continue
            await self._reset_or_note(state, errors.OffsetOutOfRangeError(why, [state.tp]))
            if state.tp in self._out_of_range:
                log_ends[state.tp] = 0  # nothing to read there
        return log_ends

    async def _is_out_of_range(self, state: PartitionState, log_start: int, log_end: int) -> bool:
        """Say whether a position is beyond the end, or records from it on were deleted."""
        if state.position is None or state.position > log_end:
            return True
        if state.position >= log_start:
            return False
        # the log start may have passed over offsets that no record ever had
        rows = await self._fetch(statements.LEAST_POSITION, state.partition_id, log_start)
        return bool(state.position < rows[0][0])

    def _meet_deleted(self, state: PartitionState) -> None:
        """Say that a partition that is read is no more."""
        raise errors.UnknownTopicError(f"topic {state.tp.topic!r} was deleted: assign other partitions")

    async def _read(self, state: PartitionState, limit: int) -> list[Any]:
        """Read one window of a partition."""
        state.more = False
        try:
            rows = await self._read_visible(state, limit)
        except errors.OffsetOutOfRangeError as error:
            await self._reset_or_note(state, errors.OffsetOutOfRangeError(str(error), [state.tp]))
            return []
        if not rows:
            state.more = state.position == state.segment.end_offset
        return rows

    def _deliver(
        self, result: dict[TopicPartition, list[ConsumerRecord]], state: PartitionState, rows: list[Any]
    ) -> None:
        """Add the records of a window to the result."""
        result[state.tp] = found = records.decode(
            state.tp.topic,
            state.tp.partition,
            rows,
            self._key_deserializer,
            self._value_deserializer,
            self._max_decompressed_bytes,
            self._broken,
        )
        state.advance(found[-1].offset + 1)
        state.last = tuple(rows[len(found) - 1])
        state.mean_bytes = records.mean_bytes(rows, state.mean_bytes)

    async def _window(self, state: PartitionState, position: int, limit: int) -> list[Any]:
        """Return up to `limit` rows from the position on, as far as its segment goes; none if it has no segment."""
        lost: _Lost | None = None
        while True:
            if not state.segment.base_offset <= position < state.segment.end_offset:
                base, end = (await self._fetch(statements.SEGMENT_AT, state.partition_id, position))[0]
                if base is None:
                    if lost is not None:
                        state.holes = REREADS  # no need to wait for what was there a moment ago
                    return []
                if lost is not None and base == lost.base_offset:
                    raise lost.error
                state.segment = Segment(base, end, statements.fetch_window(state.topic_id, state.tp.partition, base))
            try:
                return await self._fetch(state.segment.window, position, state.segment.end_offset, limit)
            except (errors.UnknownTopicError, errors.DatabaseError) as error:
                # retention has dropped it, or compaction has put it together with the one before: look again
                lost = _Lost(state.segment.base_offset, error)
                state.segment = Segment(0, 0, "")

    async def _secure(self, states: list[tuple[PartitionState, bool]], session: Any) -> list[PartitionState]:
        """See that what was read so far is flushed, by as many servers as the topic asks for; return where it is not.

        Where there is more to read (True) the watermark is asked for as well, so that this is done once for all below.

        Args:
            session: on which it was read.
        """
        ids, fulls = [state.partition_id for state, _ in states], [is_full for _, is_full in states]
        found = await self._fetch(statements.FLUSH_READS, ids, fulls)
        flushed = found[-1][2]
        too_few: set[int] = set()
        for replicas in {row[1] for row in found if row[1] is not None and row[1] > 1}:
            rows = await self._fetch(statements.AWAIT_REPLICAS, flushed, replicas, _REPLICAS_TIMEOUT_MS)
            if not rows[0][0]:
                too_few.add(replicas)
        if self._raw_connection is not session:
            return [state for state, _ in states]  # it may be gone with the server that it was read from
        held_back = []
        for (state, _), (watermark, replicas, _) in zip(states, found, strict=True):
            if replicas in too_few:
                held_back.append(state)
            elif watermark is not None:
                state.safe = max(state.safe, watermark)
        return held_back

    async def _read_visible(self, state: PartitionState, limit: int) -> list[Any]:
        """Return the rows that may be delivered from the position on; the rule stands at pgq._settle."""
        position, session = state.position, self._raw_connection
        assert position is not None
        rows = await self._window(state, position, limit)
        if rows and rows[0][0] == position:
            count = records.deliverable(rows, position, state.decided)
            return rows if count == len(rows) else rows[:count]
        # the record at the position is missing: not committed yet, rolled back, compacted, or deleted
        if position >= state.decided and state.holes < REREADS:
            state.holes += 1
            return []
        if position < state.decided and state.segment.base_offset <= position < state.segment.end_offset:
            # its segment is there and it is decided, so it was rolled back or compacted
            first = rows[0][0] if rows else state.segment.end_offset
            state.advance(min(first, state.decided))
            return rows[: records.deliverable(rows, first, state.decided)] if first < state.decided else []
        next_offset, decided = (await self._fetch(statements.SETTLE, state.partition_id, position))[0]
        if decided <= position or await self._secure([(state, True)], session):
            return []
        # only now: after a failover the offsets of a hole that too few servers knew of are given out again
        state.decided = decided
        rows = await self._window(state, next_offset, limit)
        if next_offset < state.decided and (not rows or rows[0][0] != next_offset):
            return []  # it was there a moment ago: deleted meanwhile. The position stays, so that this is seen
        state.advance(next_offset)
        return rows[: records.deliverable(rows, next_offset, state.decided)]
