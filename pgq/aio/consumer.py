"""The consumer: reads partitions in order from positions of its own, without a skip, and commits offsets of a group."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pgq import errors
from pgq.aio.client import AsyncClient
from pgq.core import records, statements
from pgq.core.positions import REREADS, Assignment, PartitionState, Segment
from pgq.drivers import asyncpg as driver
from pgq.drivers.tasks import sleep
from pgq.serde import deserializer
from pgq.types import ConsumerRecord, Deserializer, OffsetAndMetadata, OffsetAndTimestamp, TopicPartition

_IDLE_FIRST_S, _IDLE_LAST_S = 0.001, 0.1
_ASK_EVERY_S = 0.1
"""How long a full window is taken for a sign that more is there, without a look at log start and log end."""
_REPLICAS_TIMEOUT_MS = 200
"""How long one poll waits for standbys to have what was read; then the next one reads it again."""
_RESETS = ("earliest", "latest", "none")

Offsets = Mapping[TopicPartition, int | OffsetAndMetadata]


class AsyncConsumer(AsyncClient):
    """Reads topics, or partitions assigned to it.

    Every partition of the topics is read by this consumer; members of a group do not share them out yet. With a
    group_id positions start from what the group committed, and `commit` stores them; nothing is committed by itself.
    Not for use by several tasks at once.

    Args:
        topics: names of the topics to read; none if `assign` is called.
        dsn: libpq connection string or URL; PGQ_DSN if None. It must name the primary.
        group_id: whose committed offsets to use.
        auto_offset_reset: where to start without a committed offset, or when the position is out of range:
            "latest", "earliest", or "none" to raise.
        max_poll_records: the most records that a call of getmany returns.
        max_decompressed_bytes: how long a compressed value may become. A longer one raises CorruptRecordError when its
            turn comes, and is not stepped over; `seek` behind it.
        key_deserializer, value_deserializer: from stored bytes to objects: "str", "json", a pydantic model, or any
            callable; null stays None.
    """

    _settings = (
        # windows of one segment by its primary key: a plan kept from when the segment was small must not scan it all
        "set plan_cache_mode = force_generic_plan",
        "set enable_seqscan = off",
        "set enable_bitmapscan = off",
        "set default_transaction_isolation = 'read committed'",
        "set synchronous_commit = local",
    )

    def __init__(
        self,
        *topics: str,
        dsn: str | None = None,
        group_id: str | None = None,
        auto_offset_reset: str = "latest",
        max_poll_records: int = 500,
        max_decompressed_bytes: int = 104_857_600,
        key_deserializer: Deserializer | str | type | None = None,
        value_deserializer: Deserializer | str | type | None = None,
    ) -> None:
        super().__init__(dsn)
        if auto_offset_reset not in _RESETS:
            raise errors.InvalidRequestError(f"auto_offset_reset must be one of {_RESETS}, not {auto_offset_reset!r}")
        if max_poll_records < 1:
            raise errors.InvalidRequestError(f"max_poll_records must be 1 or more, not {max_poll_records}")
        self._topics = topics
        self._group_id = group_id
        self._auto_offset_reset = auto_offset_reset
        if max_decompressed_bytes < 1:
            raise errors.InvalidRequestError(f"max_decompressed_bytes must be 1 or more, not {max_decompressed_bytes}")
        self._max_poll_records = max_poll_records
        self._max_decompressed_bytes = max_decompressed_bytes
        self._key_deserializer = deserializer("key", key_deserializer)
        self._value_deserializer = deserializer("value", value_deserializer)
        self._assignment = Assignment()
        self._buffer: deque[ConsumerRecord] = deque()
        self._idle_s = _IDLE_FIRST_S
        self._asked_at = 0.0

    async def start(self) -> None:
        """Connect, and assign the partitions of the topics that the consumer was made with.

        Raises:
            UnknownTopicError: a topic does not exist.
        """
        await self._connection()
        if self._topics and not self._assignment:
            await self._assign([tp for topic in self._topics for tp in await self._partitions_of(topic)])

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions, and only these.

        Raises:
            UnknownTopicError, UnknownPartitionError
        """
        self._topics = ()
        await self._assign([TopicPartition(*tp) for tp in partitions])

    def assignment(self) -> set[TopicPartition]:
        """Return the partitions that are read."""
        return self._assignment.partitions()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return the next records, in order by partition; nothing if none came within timeout_ms.

        Args:
            partitions: only these; all if none.
            timeout_ms: how long to wait for the first record.
            max_records: the most to return; max_poll_records if None.

        Raises:
            OffsetOutOfRangeError: a position is below the log start or beyond the end, and auto_offset_reset is "none".
            NoOffsetForPartitionError: no offset is committed, and auto_offset_reset is "none".
            BrokerNotAvailableError: the connection was lost. The next call connects again; positions are kept.
        """
        limit = self._max_poll_records if max_records is None else max_records
        if limit < 1:
            raise errors.InvalidRequestError(f"max_records must be 1 or more, not {limit}")
        buffered = self._take_buffered(set(partitions), limit) if self._buffer else None
        if buffered:
            return buffered
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            result = await self._poll(set(partitions), limit)
            if result:
                self._idle_s = _IDLE_FIRST_S
                return result
            left = deadline - time.monotonic()
            if left <= 0:
                return {}
            await sleep(min(self._idle_s, left))
            self._idle_s = min(self._idle_s * 2, _IDLE_LAST_S)

    def _take_buffered(self, only: set[TopicPartition], limit: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return records that iteration has read but not given out, so that both ways can be mixed."""
        result: dict[TopicPartition, list[ConsumerRecord]] = {}
        kept: deque[ConsumerRecord] = deque()
        for record in self._buffer:
            tp = TopicPartition(record.topic, record.partition)
            if limit > 0 and (not only or tp in only):
                result.setdefault(tp, []).append(record)
                limit -= 1
            else:
                kept.append(record)
        self._buffer = kept
        return result

    async def getone(self) -> ConsumerRecord:
        """Return the next record, however long it takes to come."""
        while not self._buffer:
            for batch in (await self.getmany(timeout_ms=1000)).values():
                self._buffer.extend(batch)
        return self._buffer.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumerRecord:
        if self._buffer:
            return self._buffer.popleft()
        return await self.getone()

    async def position(self, tp: TopicPartition) -> int:
        """Return the offset of the next record that the application gets from a partition."""
        state = self._state(tp)
        for record in self._buffer:
            if record[0] == tp[0] and record[1] == tp[1]:
                return record.offset
        await self._find_positions()
        assert state.position is not None
        return state.position

    async def seek(self, tp: TopicPartition, offset: int) -> None:
        """Read a partition from this offset on. Whether it exists is seen when it is read.

        Raises:
            InvalidRequestError: the offset is negative.
            IllegalStateError: the partition is not assigned.
        """
        if not isinstance(offset, int) or offset < 0:
            raise errors.InvalidRequestError(f"cannot seek to offset {offset!r}: give 0 or more")
        self._move(tp, offset)

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Read these partitions, or all, from the first record that is still there."""
        for tp, offset in (await self.beginning_offsets(partitions or self.assignment())).items():
            self._move(tp, offset)

    async def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Read only what comes from now on in these partitions, or all."""
        for tp, offset in (await self.end_offsets(partitions or self.assignment())).items():
            self._move(tp, offset)

    async def seek_to_committed(self, *partitions: TopicPartition) -> None:
        """Read these partitions, or all, from the group's committed offsets where there are any."""
        for tp, committed in (await self._committed(partitions or self.assignment())).items():
            self._move(tp, committed.offset)

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

    async def commit(self, offsets: Offsets | None = None, connection: Any = None) -> None:
        """Store the group's offsets: the next ones to process.

        Args:
            offsets: what to store; None for all records that the application was given.
            connection: the application's own connection: the offsets become visible, or not, with everything else in
                its transaction. Without it they are committed at once.

        Raises:
            InvalidGroupIdError: the consumer has no group_id.
            UnknownTopicError, UnknownPartitionError, InvalidCommitOffsetError
        """
        if self._group_id is None:
            raise errors.InvalidGroupIdError("there is no group to commit for: give the consumer a group_id")
        if offsets is None:
            offsets = {s.tp: await self.position(s.tp) for s in self._assignment.all() if s.position is not None}
        if not offsets:
            return
        given = [o if isinstance(o, OffsetAndMetadata) else OffsetAndMetadata(o) for o in offsets.values()]
        target = await self._connection() if connection is None else driver.wrap(connection)
        await target.fetch(
            statements.COMMIT_OFFSETS,
            self._group_id,
            [tp[0] for tp in offsets],
            [tp[1] for tp in offsets],
            [o.offset for o in given],
            [o.metadata for o in given],
        )

    async def committed(self, tp: TopicPartition) -> int | None:
        """Return the offset that the group committed for a partition, or None.

        Raises:
            InvalidGroupIdError: the consumer has no group_id.
        """
        found = (await self._committed([tp])).get(TopicPartition(*tp))
        return None if found is None else found.offset

    def pause(self, *partitions: TopicPartition) -> None:
        """Return no records of these partitions until `resume`."""
        for tp in partitions:
            state = self._state(tp)
            state.paused = True
            buffered = [r for r in self._buffer if (r.topic, r.partition) == tuple(tp)]
            if buffered:
                self._move(state.tp, buffered[0].offset)

    def resume(self, *partitions: TopicPartition) -> None:
        """Return records of these partitions again."""
        for tp in partitions:
            self._state(tp).paused = False

    def paused(self) -> set[TopicPartition]:
        """Return the partitions that are paused."""
        return {state.tp for state in self._assignment.all() if state.paused}

    # what is below needs no lock and no transaction: every statement is one

    async def _connection(self) -> Any:
        before = self._raw_connection
        connection = await super()._connection()
        if connection is not before:
            for state in self._assignment.all():
                state.decided = state.safe = 0  # it may be another server, or the same after a crash
        return connection

    async def _fetch(self, statement: str, *args: Any) -> list[Any]:
        rows: list[Any] = await (await self._connection()).fetch(statement, *args)
        return rows

    async def _partitions_of(self, topic: str) -> list[TopicPartition]:
        rows = await self._fetch(statements.TOPIC_METADATA, topic)
        return [TopicPartition(topic, p) for p in range(len(rows[0][1]))]

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

    async def _assign(self, partitions: list[TopicPartition]) -> None:
        self._assignment.replace(await self._make_states(partitions, known=False))
        self._buffer = deque(r for r in self._buffer if TopicPartition(r.topic, r.partition) in self._assignment)

    def _state(self, tp: TopicPartition) -> PartitionState:
        tp = TopicPartition(*tp)
        if tp not in self._assignment:
            raise errors.IllegalStateError(f"{tp} is not assigned to this consumer: assign it, or name its topic")
        return self._assignment[tp]

    def _move(self, tp: TopicPartition, offset: int) -> None:
        state = self._state(tp)
        self._buffer = deque(r for r in self._buffer if (r.topic, r.partition) != tuple(tp))
        state.advance(offset)
        state.more = False

    async def _committed(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        if self._group_id is None:
            raise errors.InvalidGroupIdError("there is no group: give the consumer a group_id")
        wanted = list(partitions)
        rows = await self._fetch(
            statements.COMMITTED_OFFSETS, self._group_id, [tp[0] for tp in wanted], [tp[1] for tp in wanted]
        )
        return {TopicPartition(row[0], row[1]): OffsetAndMetadata(row[2], row[3]) for row in rows}

    async def _find_positions(self) -> None:
        """Give a position to every partition that has none: the committed offset, else by the reset policy."""
        missing = [state for state in self._assignment.all() if state.position is None]
        if not missing:
            return
        committed = await self._committed([s.tp for s in missing]) if self._group_id is not None else {}
        by_policy = [state for state in missing if state.tp not in committed]
        for state in missing:
            if state.tp in committed:
                state.advance(committed[state.tp].offset)
        if by_policy:
            await self._reset(
                by_policy,
                errors.NoOffsetForPartitionError(
                    f"no committed offset for {by_policy[0].tp}, and auto_offset_reset is 'none':"
                    " seek, or choose a policy"
                ),
            )

    async def _reset(self, states: list[PartitionState], error: errors.PgqError) -> None:
        """Move partitions to where auto_offset_reset says; raise the error if it is "none"."""
        if self._auto_offset_reset == "none":
            raise error
        find = self.beginning_offsets if self._auto_offset_reset == "earliest" else self.end_offsets
        found = await find([state.tp for state in states])
        for state in states:
            state.advance(found[state.tp])
            state.more = False

    async def _poll(self, only: set[TopicPartition], limit: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Read what there is. Records that are not returned were not read: if one partition fails, what others gave is
        returned, and the next call meets the failure; if there is nothing to return, no position has moved.
        """
        await self.start()
        if not self._assignment:
            raise errors.IllegalStateError("nothing to read: name topics, or assign partitions")
        await self._find_positions()
        states = [s for s in self._assignment.rotate() if not only or s.tp in only]
        before = [(state, state.position) for state in states]
        result: dict[TopicPartition, list[ConsumerRecord]] = {}
        try:
            await self._read_all(result, states, limit)
        except BaseException as error:
            if result and isinstance(error, errors.PgqError):
                return result
            for state, position in before:
                if position is not None and state.tp in result:
                    state.advance(position)
            raise
        return result

    async def _read_all(
        self, result: dict[TopicPartition, list[ConsumerRecord]], states: list[PartitionState], limit: int
    ) -> None:
        now = time.monotonic()
        if now - self._asked_at > _ASK_EVERY_S:
            for state in states:
                state.more = False
        log_ends: dict[TopicPartition, int] | None = None
        for state in states:
            if limit <= 0:
                return
            if not state.more:
                if log_ends is None:
                    self._asked_at = now
                    log_ends = await self._look([s for s in states if not s.more])
                if state.position is None or state.position >= log_ends.get(state.tp, 0):
                    continue
            limit -= await self._read_into(result, state, limit)

    async def _look(self, states: list[PartitionState]) -> dict[TopicPartition, int]:
        """Return the log ends of some partitions; give new positions to those that are out of range."""
        rows = await self._fetch(statements.PARTITION_OFFSETS, [s.partition_id for s in states])
        log_ends: dict[TopicPartition, int] = {}
        for state, (log_start, log_end) in zip(states, rows, strict=True):
            if log_start is None:
                raise errors.UnknownTopicError(f"topic {state.tp.topic!r} was deleted: assign other partitions")
            log_ends[state.tp] = log_end
            if state.position is None or not log_start <= state.position <= log_end:
                await self._reset(
                    [state],
                    errors.OffsetOutOfRangeError(
                        f"position {state.position} of {state.tp} is out of range {log_start} to {log_end}:"
                        " seek to another offset"
                    ),
                )
        return log_ends

    async def _read_into(
        self, result: dict[TopicPartition, list[ConsumerRecord]], state: PartitionState, limit: int
    ) -> int:
        """Read one window of a partition, add its records to the result and return how many they are."""
        state.more = False
        try:
            rows = await self._read(state, limit)
        except errors.OffsetOutOfRangeError as error:
            await self._reset([state], error)
            return 0
        if rows:
            result[state.tp] = found = records.decode(
                state.tp.topic,
                state.tp.partition,
                rows,
                self._key_deserializer,
                self._value_deserializer,
                self._max_decompressed_bytes,
            )
            state.advance(found[-1].offset + 1)
        state.more = len(rows) == limit or state.position == state.segment.end_offset
        return len(rows)

    async def _window(self, state: PartitionState, position: int, limit: int) -> list[Any]:
        """Return rows from the position on, as far as its segment goes; none if it has no segment yet."""
        if not state.segment.base_offset <= position < state.segment.end_offset:
            base, end = (await self._fetch(statements.SEGMENT_AT, state.partition_id, position))[0]
            if base is None:
                return []
            state.segment = Segment(base, end, statements.fetch_window(state.topic_id, state.tp.partition, base))
        return await self._fetch(state.segment.window, position, min(position + limit, state.segment.end_offset))

    async def _read(self, state: PartitionState, limit: int) -> list[Any]:
        """Return the rows that may be delivered from the position on, none that a crash could take back."""
        rows = await self._read_visible(state, limit)
        if rows and rows[-1][0] >= state.safe and not await self._secure(state, more=len(rows) == limit):
            return []
        return rows

    async def _secure(self, state: PartitionState, *, more: bool) -> bool:
        """See that what was read so far is flushed, by as many servers as the topic asks for; return whether it is.

        Where there is more to read the watermark is asked for as well, so that this is done once for all below it.
        """
        before = self._raw_connection
        if await self._connection() is not before:
            return False  # what was read may be gone with the server that it was read from
        watermark, replicas, flushed = (await self._fetch(statements.FLUSH_READS, state.partition_id, more))[0]
        if replicas is not None and replicas > 1:
            rows = await self._fetch(statements.AWAIT_REPLICAS, flushed, replicas, _REPLICAS_TIMEOUT_MS)
            if not rows[0][0]:
                return False
        if watermark is not None:
            state.safe = max(state.safe, watermark)
        return True

    async def _read_visible(self, state: PartitionState, limit: int) -> list[Any]:
        """Return the rows that may be delivered from the position on; the rule stands at pgq._settle."""
        position = state.position
        assert position is not None
        rows = await self._window(state, position, limit)
        if rows and rows[0][0] == position:
            count = records.deliverable(rows, position, state.decided)
            return rows if count == len(rows) else rows[:count]
        # the record at the position is missing: not committed yet, rolled back, or deleted
        if position >= state.decided and state.holes < REREADS:
            state.holes += 1
            return []
        next_offset, state.decided = (await self._fetch(statements.SETTLE, state.partition_id, position))[0]
        if state.decided <= position or not await self._secure(state, more=True):
            return []
        rows = await self._window(state, next_offset, limit)
        if next_offset < state.decided and (not rows or rows[0][0] != next_offset):
            return []  # it was there a moment ago: deleted meanwhile. The position stays, so that this is seen
        state.advance(next_offset)
        return rows[: records.deliverable(rows, next_offset, state.decided)]
