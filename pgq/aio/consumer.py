"""The consumer: alone or as a member of a group, reads partitions in order without a skip, and commits offsets."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from random import random
from types import TracebackType
from typing import Any, NamedTuple, Self

from pgq import errors
from pgq.aio.due import AsyncDueRecords
from pgq.aio.failures import Failures, Note, failure_arguments, in_parts, split_stored
from pgq.aio.membership import AsyncMembership, arguments
from pgq.aio.parking import AsyncParking
from pgq.aio.reader import AWAY, AsyncReader, check_at_least, check_counts, is_offset, listed
from pgq.aio.retry_topics import AsyncRetryTopics
from pgq.aio.transactions import AsyncTransactions
from pgq.aio.worker import DEFAULT_RETRY, AsyncRunner, Handler
from pgq.core import statements
from pgq.core.assignors import check_strategy
from pgq.core.backoff import backoff_s
from pgq.core.positions import PartitionState
from pgq.core.retries import MOST_S, RetryPolicy, attempts_made, check_delay
from pgq.drivers import asyncpg as driver
from pgq.drivers.dsn import direct_dsn
from pgq.drivers.tasks import Event, Mutex, Worker, call, logger, sleep
from pgq.telemetry import CONSUMER_METRICS
from pgq.types import ConsumerRebalanceListener, ConsumerRecord, Deserializer, OffsetAndMetadata, TopicPartition

_QUICK_S = (0.001, 0.002, 0.004)
"""How long to wait before each look after the last record, until it is worth while to be notified."""
_POOLED_LAST_S = 0.1
"""The longest wait between two looks where nobody can notify."""
_PARKED_LOOK_S = 1.0
"""How often one who waits to be notified looks all the same: a notification may be lost."""
_BEAT_S, _BUSY_BEAT_S = 0.5, 0.25
"""How often a member sees whether its group has changed, and whether its neighbour lives; who reads on without a pause
does not hear that it has."""
_BESIDE_S = 0.05
"""How often it is looked while some partitions are not read: what is appended to those notifies as well."""
_COMMIT_AGAIN_S = 0.2
"""How often a commit is tried for what has failed and is due again, but stands behind what is not done."""
_CLAIM_S, _CLAIM_LATER_S, _CLAIM_SOON_S = 0.05, 0.5, 2.0
"""How often partitions are asked for that others are about to give up: at first, and after a while."""

Offsets = Mapping[TopicPartition, int | OffsetAndMetadata]


class _Kept(NamedTuple):
    """What is known of a partition that was lost, in case that it is claimed again."""

    restart: int | None
    """Where to start, if the group's offset is still the same."""
    committed: int | None
    paused: bool


class AsyncConsumer(AsyncReader):
    """Reads topics as a member of a group, or alone, or partitions assigned to it.

    With a group_id and topics it is a member: the partitions are shared out among all consumers of the group, whoever
    comes or goes. Each holds its own by a lock of its session, so a killed member's are read by others within a second.
    Positions start from what the group committed. Without a group_id it reads every partition of its topics.

    A member has one connection, which must not go through a pooler that shares sessions (PGQ_DIRECT_DSN names another
    way). Everything that changes hands does so within calls of this consumer: what was delivered is committed first if
    enable_auto_commit is on, the listener is told, and only then may another member have it.

    A lost connection or a failover costs time, no records: iteration goes on by itself; `getmany` raises only if the
    server was away for all of its timeout. Not for use by several tasks at once.

    Args:
        topics: names of the topics to read; none if `subscribe` or `assign` is called.
        dsn: libpq connection string or URL; PGQ_DSN if None, or PGQ_DIRECT_DSN for a member. It must name the primary.
        group_id: the group whose committed offsets are used.
        group_instance_id: a name that no other member has, which makes it a static one: when it is stopped and comes
            back within session_timeout_ms it has its partitions again, and nobody else has had them.
        client_id: shown in pgq.member_status.
        auto_offset_reset: where to start without a committed offset, or when the position is out of range: "latest",
            "earliest", "by_duration:P1D" (or any PnDTnHnMnS) for what came since then, or "none" to raise.
        enable_auto_commit: commit, at a later call of `getmany` or for a later record, what was delivered before; and
            when partitions change hands, and at `close`. Leaving `with` by an exception does not commit what was
            delivered last.
        auto_commit_interval_ms: how often at most.
        max_poll_records: the most records that a call of getmany returns.
        max_poll_interval_ms: how long the application may take between two calls; then the others get its partitions.
        session_timeout_ms: how long the process may be stopped, its host or network be gone, or its event loop be kept
            busy by a handler that computes. 1,000 to 1,800,000. A killed process is noticed at once.
        partition_assignment_strategy: "range", "roundrobin" or "sticky", which moves the fewest partitions when members
            come and go. All members of a group must give the same.
        fetch_min_bytes: wait for so many bytes of keys and values, up to fetch_max_wait_ms.
        fetch_max_bytes, max_partition_fetch_bytes: about how many bytes a call returns at most, of all partitions and
            of one; at least one record.
        request_timeout_ms: how long the server may take to answer; then the connection is given up, and the call takes
            longer than its own timeout. For a member no longer than session_timeout_ms.
        metadata_max_age_ms: how often new topics and partitions are looked for. Members of a group find new partitions
            of the topics that they read within a second.
        max_decompressed_bytes: how long a compressed value may become. A longer one raises CorruptRecordError when its
            turn comes, and is not stepped over; `seek` behind it. With `run` that record has failed.
        key_deserializer, value_deserializer: from stored bytes to objects: "str", "json", a pydantic model, or any
            callable; null stays None.
        retry: read the group's retry topics too, and make them; what `retry` goes by. All members of a group should
            give it, or none. `run` brings one along.
    """

    def __init__(
        self,
        *topics: str,
        dsn: str | None = None,
        group_id: str | None = None,
        group_instance_id: str | None = None,
        client_id: str = "pgq",
        auto_offset_reset: str = "latest",
        enable_auto_commit: bool = True,
        auto_commit_interval_ms: float = 5_000,
        max_poll_records: int = 500,
        max_poll_interval_ms: float = 300_000,
        session_timeout_ms: int = 45_000,
        partition_assignment_strategy: str = "range",
        fetch_min_bytes: int = 1,
        fetch_max_wait_ms: float = 500,
        fetch_max_bytes: int = 52_428_800,
        max_partition_fetch_bytes: int = 1_048_576,
        request_timeout_ms: float = 40_000,
        metadata_max_age_ms: float = 5_000,
        max_decompressed_bytes: int = 104_857_600,
        key_deserializer: Deserializer | str | type | None = None,
        value_deserializer: Deserializer | str | type | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        super().__init__(
            dsn,
            group_id=group_id,
            auto_offset_reset=auto_offset_reset,
            request_timeout_ms=request_timeout_ms if group_id is None else min(request_timeout_ms, session_timeout_ms),
            fetch_max_bytes=fetch_max_bytes,
            max_partition_fetch_bytes=max_partition_fetch_bytes,
            max_decompressed_bytes=max_decompressed_bytes,
            key_deserializer=key_deserializer,
            value_deserializer=value_deserializer,
        )
        check_at_least(0, auto_commit_interval_ms=auto_commit_interval_ms, fetch_max_wait_ms=fetch_max_wait_ms)
        check_at_least(1, max_poll_interval_ms=max_poll_interval_ms, metadata_max_age_ms=metadata_max_age_ms)
        check_counts(1, max_poll_records=max_poll_records, fetch_min_bytes=fetch_min_bytes)
        for name, text in (("group_instance_id", group_instance_id), ("client_id", client_id)):
            if not isinstance(text, str | None):
                raise errors.InvalidRequestError(f"{name} must be a string, not {text!r}")
        if not isinstance(enable_auto_commit, bool):
            raise errors.InvalidRequestError(f"enable_auto_commit must be True or False, not {enable_auto_commit!r}")
        if not isinstance(session_timeout_ms, int) or not 1000 <= session_timeout_ms <= 1_800_000:
            raise errors.InvalidRequestError(
                f"session_timeout_ms must be 1,000 to 1,800,000, not {session_timeout_ms!r}"
            )
        if group_id is not None and not (isinstance(group_id, str) and 1 <= len(group_id) <= 249):
            raise errors.InvalidGroupIdError(f"a group_id is a string of 1 to 249 characters, not {group_id!r}")
        if group_instance_id is not None and (group_id is None or not 1 <= len(group_instance_id) <= 249):
            raise errors.InvalidRequestError("a group_instance_id has 1 to 249 characters, and needs a group_id")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise errors.InvalidRequestError(f"retry must be a RetryPolicy or None, not {retry!r}")
        if retry is not None and group_id is None:
            raise errors.InvalidGroupIdError("retry needs a group_id: retry topics are a group's")
        check_strategy(partition_assignment_strategy)
        self._topics: tuple[str, ...] = _names(topics)
        self._pattern: re.Pattern[str] | None = None
        self._listener: ConsumerRebalanceListener | None = None
        self._auto_commit = enable_auto_commit and group_id is not None
        self._auto_commit_interval_s = auto_commit_interval_ms / 1000
        self._max_poll_records = max_poll_records
        self._max_poll_interval_s = max_poll_interval_ms / 1000
        self._fetch_min_bytes = fetch_min_bytes
        self._fetch_max_wait_s = fetch_max_wait_ms / 1000
        self._metadata_max_age_s = metadata_max_age_ms / 1000
        self._membership: AsyncMembership | None = None
        if group_id is not None:
            self._membership = AsyncMembership(
                self._run,
                group_id=group_id,
                strategy=partition_assignment_strategy,
                session_timeout_ms=session_timeout_ms,
                instance_id=group_instance_id,
                client_id=client_id,
            )
        self._buffer: deque[ConsumerRecord] = deque()
        self._given: ConsumerRecord | None = None
        """The record that iteration gave out last; None if getmany did."""
        self._before: dict[TopicPartition, int] = {}
        """Where the application was when it called getmany last: what came before that is done."""
        self._kept: dict[int, _Kept] = {}
        """By partition_id."""
        self._newest_topic: int | None = None
        """The highest topic_id when the subscription was taken up; what comes later is read from its beginning."""
        self._manual = False
        """Whether `assign` has chosen what is read."""
        self._read_topics: tuple[str, ...] = ()
        """The topics that the subscription came to when it was last looked at."""
        self._subscription_changed = bool(topics)
        self._looked_at = 0.0
        self._committed_at = time.monotonic()
        self._beat_at = self._claim_at = self._missing_since = 0.0
        self._attention = False
        """Whether iteration should look up from its buffer: the group has changed, or it is time to commit."""
        self._polling = False
        self._polls = 0
        self._progress: tuple[int, int] = (0, 0)
        self._progress_at = 0.0
        self._idle = 0
        self._listening: set[str] = set()
        self._parking = AsyncParking(self._fetch)
        self._due = AsyncDueRecords(self._fetch)
        self._quiet_at = 0.0
        """When all partitions were last seen to have nothing more; 0 if that is not so, or something has changed."""
        self._worker: Worker | None = None
        self._ending = Event()
        self._following = Mutex()
        self._transactions = AsyncTransactions(dsn, self._in_time)
        self._in_transaction = False
        self._void: set[TopicPartition] = set()
        """Partitions that have gone, with records that the application was given and has not committed."""
        self._listener_error: Exception | None = None
        self._retry = retry
        self._counts = {metric.name: 0.0 for metric in CONSUMER_METRICS}
        self._failures = Failures(self._counts)
        self._retry_topic_maker = AsyncRetryTopics(self._fetch, group_id)
        self._commit_failed = False
        """Whether the last automatic commit did."""
        self._runner: AsyncRunner | None = None
        self._stopping = False

    async def start(self) -> None:
        """Connect; join the group, or assign the partitions of the topics. A member may have to wait for its own.

        Raises:
            UnknownTopicError: a topic does not exist.
            UnsupportedPoolerError: a member's connection goes through a pooler.
            InconsistentGroupProtocolError: the group shares out by another strategy.
        """
        self._refuse_second_call()
        self._polling = True
        try:
            async with self._mutex:
                await self._connection()
            await self._prepare()
        finally:
            self._polling = False

    async def close(self) -> None:
        """Commit what was delivered, if enable_auto_commit is on, leave the group at once and close the connection.

        A static member keeps its place in the group for session_timeout_ms. May be called again. While `run` is at work
        it is `stop`.
        """
        await self._close(failed=False)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self._close(failed=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close(failed=error is not None)

    def subscribe(
        self,
        topics: Iterable[str] = (),
        pattern: str | re.Pattern[str] | None = None,
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """Read these topics instead, or those whose names match a pattern at their beginning, also those made later.

        It takes effect with the next call that reads. The listener is told what changes hands.

        Raises:
            IllegalStateError: neither topics nor a pattern are given, or both.
            InvalidRequestError: the pattern is no regular expression, or the listener none.
        """
        names = _names((topics,) if isinstance(topics, str) else topics)
        if bool(names) == (pattern is not None):
            raise errors.IllegalStateError("subscribe to topics or to a pattern: give one of them")
        try:
            compiled = None if pattern is None else re.compile(pattern)
            if compiled is not None:
                compiled.match("")  # of str, not of bytes
        except (re.error, TypeError) as error:
            raise errors.InvalidRequestError(f"{pattern!r} is no regular expression: {error}") from error
        for name in ("on_partitions_revoked", "on_partitions_assigned", "on_partitions_lost"):
            if listener is not None and not callable(getattr(listener, name, None)):
                raise errors.InvalidRequestError(
                    f"a listener has {name}(), and {listener!r} does not: derive it from ConsumerRebalanceListener"
                )
        self._refuse_while_running("subscribe()")
        self._topics = names
        self._pattern = compiled
        self._listener = listener
        self._subscription_changed = self._attention = True

    def unsubscribe(self) -> None:
        """Read nothing, until `subscribe` or `assign`. A member leaves its group within a second.

        What was delivered is committed before, if enable_auto_commit is on.
        """
        self._refuse_while_running("unsubscribe()")
        self._topics = ()
        self._pattern = None
        self._subscription_changed = self._attention = True

    def subscription(self) -> set[str]:
        """Return the topics that are subscribed to; of a pattern, those that were found; without retry topics."""
        return set(self._topics) or set(self._read_topics) - self._retry_topics

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions, and only these, whoever else does: no group shares them out.

        Retry topics are made if `retry` was given; to read them, assign their partitions as well.

        Raises:
            UnknownTopicError, UnknownPartitionError
        """
        self._refuse_while_running("assign()")
        states = await self._make_states([TopicPartition(*tp) for tp in partitions], known=False)
        if self._retry is not None:
            await self._make_retry_topics({state.tp.topic for state in states})
        if self._subscribed or self._subscription_changed:
            self.unsubscribe()
            await self._follow_subscription()
        self._manual = self._due.alone = True
        self._due.at = 0.0
        self._replace(states)

    def assignment(self) -> set[TopicPartition]:
        """Return the partitions that are read."""
        return self._assignment.partitions()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: float = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return the next records, in order by partition; nothing if none came within timeout_ms.

        Where one partition fails, the others' records are returned first, and the next call raises the error.

        Args:
            partitions: only these; all if none.
            timeout_ms: how long to wait for the first record.
            max_records: the most to return; max_poll_records if None.

        Raises:
            OffsetOutOfRangeError: a position is below the log start or beyond the end, or its records were lost in a
                failover, and auto_offset_reset is "none". Its `partitions` says which to seek in.
            NoOffsetForPartitionError: no offset is committed of its `partitions`, and auto_offset_reset is "none".
            IllegalStateError: called in a listener, or while another call reads.
            BrokerNotAvailableError, RequestTimedOutError: the server was away for all of timeout_ms. The next call
                connects again; positions are kept, or those that the group committed.
            FencedInstanceIdError: another consumer with this group_instance_id has joined.
        """
        self._refuse_while_running("getmany()")
        check_at_least(0, timeout_ms=timeout_ms)
        limit = self._max_poll_records if max_records is None else max_records
        check_counts(1, max_records=limit)
        if not self._polling:
            self._given = None
        return await self._getmany(set(partitions), limit, timeout_ms / 1000)

    async def getone(self) -> ConsumerRecord:
        """Return the next record, however long it takes to come, and however long the server is away."""
        self._refuse_while_running("getone()")
        failures = 0
        self._given = None  # who asks for the next has done with it
        while not self._buffer or self._attention:
            try:
                if self._buffer:
                    self._attention = False
                    self._refuse_second_call()
                    self._polling = True
                    try:
                        await self._prepare()
                    finally:
                        self._polling = False
                    continue
                for batch in (await self._getmany(set(), self._max_poll_records, 60)).values():
                    self._buffer.extend(batch)
                failures = 0
            except AWAY as error:
                failures += 1
                await self._excuse(error, failures, 60)
        self._given = self._buffer.popleft()
        return self._given

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumerRecord:
        if self._buffer and not self._attention and self._runner is None:
            self._given = record = self._buffer.popleft()
            return record
        return await self.getone()

    async def position(self, tp: TopicPartition) -> int:
        """Return the offset of the next record that the application gets from a partition."""
        state = self._state(tp)
        if state.position is None:
            await self._find_positions()
        position = self._next(state)
        assert position is not None
        return position

    def highwater(self, tp: TopicPartition) -> int | None:
        """Return the log end as it was last seen, records of open transactions included; None if it was not yet."""
        return self._state(tp).log_end

    async def lag(self, *partitions: TopicPartition) -> dict[TopicPartition, int]:
        """Return how many offsets lie between the position and the high watermark, of these partitions or of all."""
        ends = await self.end_offsets(partitions or self.assignment())
        return {tp: max(0, end - await self.position(tp)) for tp, end in ends.items()}

    async def seek(self, tp: TopicPartition, offset: int) -> None:
        """Read a partition from this offset on. Whether it exists is seen when it is read.

        Raises:
            InvalidRequestError: the offset is negative.
            IllegalStateError: the partition is not assigned.
        """
        self._refuse_while_running("seek()")
        if not is_offset(offset):
            raise errors.InvalidRequestError(f"cannot seek to offset {offset!r}: give 0 or more, below 2^63")
        self._move(tp, offset)

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Read these partitions, or all, from the first record that is still there."""
        self._refuse_while_running("seek_to_beginning()")
        for tp, offset in (await self.beginning_offsets(partitions or self.assignment())).items():
            self._move(tp, offset)

    async def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Read only what comes from now on in these partitions, or all."""
        self._refuse_while_running("seek_to_end()")
        for tp, offset in (await self.end_offsets(partitions or self.assignment())).items():
            self._move(tp, offset)

    async def seek_to_committed(self, *partitions: TopicPartition) -> None:
        """Read these partitions, or all, from the group's committed offsets: what came since is read again.

        Where nothing is committed yet, from where the consumer began, or was sought to.
        """
        self._refuse_while_running("seek_to_committed()")
        wanted = [TopicPartition(*tp) for tp in partitions or self.assignment()]
        committed = await self._committed(wanted)
        for tp in wanted:
            if tp in committed:
                self._move(tp, committed[tp].offset)
            elif (restart := self._state(tp).restart) is not None:
                self._move(tp, restart)

    async def commit(self, offsets: Offsets | None = None, connection: Any = None) -> None:
        """Store the group's offsets: the next ones to process. Records before them that were noted to have failed go
        to the group's retry or dead letter topic, in the same transaction.

        Args:
            offsets: what to store; None for all records that the application was given.
            connection: the application's own connection: the offsets become visible, or not, with everything else in
                its transaction, and no other member gets the partitions before it has ended. Without it they are
                committed at once.

        Raises:
            IllegalStateError: with a connection: it is in no transaction, or enable_auto_commit is on, which would
                commit the offsets although the transaction is rolled back.
            InvalidGroupIdError: the consumer has no group_id.
            CommitFailedError: its `partitions` are another member's by now, or were in between. Nothing was stored. Go
                on polling; a transaction with the application's own writes must be rolled back.
            UnknownMemberIdError: the consumer is no member, and a member holds a partition.
            UnknownTopicError, UnknownPartitionError, InvalidCommitOffsetError
        """
        await self._commit(offsets, connection)

    async def _commit(self, offsets: Offsets | None, connection: Any) -> list[Note]:
        """Commit; return the notes on failures that went along on the connection."""
        if self._group_id is None:
            raise errors.InvalidGroupIdError("there is no group to commit for: give the consumer a group_id")
        raw = None if connection is None else driver.wrap(connection)
        if raw is not None:
            if self._auto_commit and self._runner is None:
                raise errors.IllegalStateError(
                    "commit(connection=) with enable_auto_commit on, which would commit the same offsets although the"
                    " transaction is rolled back: give enable_auto_commit=False"
                )
            if not raw.in_transaction:
                raise errors.IllegalStateError(
                    "commit(connection=): the connection is in no transaction, so the offsets would not be committed"
                    " together with anything: begin one"
                )
        if offsets is None:
            if connection is not None:
                self._check_void(self._void)
            self._void.clear()
            offsets = self._uncommitted(self._delivered())
        given = {
            TopicPartition(*tp): o if isinstance(o, OffsetAndMetadata) else OffsetAndMetadata(o)
            for tp, o in offsets.items()
        }
        for tp, to in given.items():
            if not is_offset(to.offset):
                raise errors.InvalidCommitOffsetError(
                    f"cannot commit offset {to.offset!r} of {listed([tp])}: give 0 or more, below 2^63"
                )
        if connection is not None:
            self._check_void(given)
        self._void -= given.keys()
        if not given:
            return []
        if self._closed:
            raise errors.IllegalStateError("the consumer is closed: make a new one")
        if self._membership is not None and not self._manual:
            await self._make_states([tp for tp in given if tp not in self._membership.claims])  # do they exist at all
        ends = {tp: o.offset for tp, o in given.items()}
        failed = await self._not_stored(self._failures.before(ends))
        for part, notes in in_parts(given, failed):
            if raw is None:
                await self._store(part, notes, None)
                self._forget_failures(notes)
                self._note_committed({tp: committed.offset for tp, committed in part.items()})
            else:
                await self._store(part, notes, raw)
                for tp, committed in part.items():
                    self._failures.note_sent(tp, committed.offset)
        if connection is None:
            self._counts["commits_total"] += 1
        return failed

    async def _store(self, offsets: dict[TopicPartition, OffsetAndMetadata], failed: list[Note], raw: Any) -> None:
        """Store offsets, and move what has failed before them."""
        group_id, membership = self._group_id, self._membership
        assert group_id is not None
        args: tuple[Any, ...]
        if membership is not None and not self._manual:
            args = membership.commit_arguments(offsets)
        else:
            args = (*arguments(group_id, offsets), None, None)
        statement = statements.COMMIT_OFFSETS
        if failed:
            statement, args = statements.COMMIT_WITH_FAILURES, (*args, *failure_arguments(failed))
            for tp, _, noted in failed:
                noted.sent = offsets[tp].offset
        try:
            if raw is not None:
                rows = await raw.fetch(statement, *args)
            else:
                rows = await self._fetch(statement, *args)
        except errors.CommitFailedError:
            self._counts["commit_errors_total"] += 1
            if self._membership is not None:
                self._membership.lose("its claims are void")  # as every commit would be
            raise
        except errors.PgqError as error:
            self._counts["commit_errors_total"] += 1
            if failed and isinstance(error, errors.UnknownTopicError):
                self._retry_again()
            raise
        if failed and (missing := len(failed) - sum(rows[0])) > 0:
            logger.warning(
                "group %s: %d of %d records that failed were not moved: retention or compaction has removed them",
                group_id,
                missing,
                len(failed),
            )

    async def committed(self, tp: TopicPartition) -> int | None:
        """Return the offset that the group committed for a partition, or None.

        Raises:
            InvalidGroupIdError: the consumer has no group_id.
        """
        found = (await self._committed([tp])).get(TopicPartition(*tp))
        return None if found is None else found.offset

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Give a connection of the driver, in a transaction, and commit with it the offsets of all that was delivered.

        What the block writes on the connection, sends with `producer.send(connection=…)`, and what was consumed are
        committed together or not at all: exactly once, for a member of a group. If the block raises, the transaction
        is rolled back and the records since the last commit are delivered again; as they are if the connection is
        lost during the commit and it did not take place. The connection is the consumer's: do not close or keep it.

        Raises:
            IllegalStateError: enable_auto_commit is on.
            InvalidGroupIdError: the consumer has no group_id.
            CommitFailedError: partitions are another member's by now; the transaction was rolled back.
        """
        if self._group_id is None:
            raise errors.InvalidGroupIdError("there is no group to commit for: give the consumer a group_id")
        if self._auto_commit:
            raise errors.IllegalStateError("transaction() commits offsets itself: give enable_auto_commit=False")
        if self._in_transaction:
            raise errors.IllegalStateError("a transaction of this consumer has begun already: they do not nest")
        try:
            connection, block = await self._transactions.begin()
        except BaseException:
            self._take_back()  # what was polled for it
            raise
        self._in_transaction = True
        offsets: dict[TopicPartition, int] = {}
        failed: list[Note] = []
        committing = False
        try:
            yield connection.raw
            if not connection.in_transaction:
                raise errors.IllegalStateError(
                    "the block has ended the transaction that transaction() began: leave commit and rollback to it"
                )
            self._check_void(self._void)
            offsets = self._uncommitted(self._delivered())
            async with self._in_time(connection):
                failed = await self._commit(offsets, connection.raw)
            committing = True
            await self._transactions.commit(connection, block)
        except BaseException as error:
            self._in_transaction = False
            self._take_back()
            if committing:
                self._claim_again()
            else:
                await self._transactions.roll_back(connection, block, error)
            if committing or not isinstance(error, Exception):
                connection.abort()  # nobody knows what state it is in
            raise
        self._in_transaction = False
        self._forget_failures(failed)
        self._note_committed(offsets)

    def retry(self, record: ConsumerRecord, error: object = None, delay_ms: float | None = None) -> None:
        """Note that a record could not be processed, and should be tried again later.

        It goes to the group's retry topic with the commit that covers its offset, in the same transaction, and comes
        again from there when it is due; if it has had the policy's max_attempts, it goes to the dead letter topic. The
        note is kept until that commit is known to have taken place: where it did not, the next one takes it along. If
        the partition is lost, or the position moved back, before, the note is dropped, and the record comes again
        anyway.

        Args:
            error: an exception or a sentence, kept in the headers.
            delay_ms: how long to wait; None: what the policy says.

        Raises:
            InvalidGroupIdError: the consumer has no group_id.
            IllegalStateError: the consumer was made without `retry`; the partition is not this consumer's; or its
                offset is committed already, and was not sought back to.
            InvalidRequestError: delay_ms is not 0 to ten years.
        """
        policy = self._check_failed(record)
        if delay_ms is not None:
            check_delay("delay_ms", delay_ms, MOST_S * 1000)
        attempt = self._attempts_made(record) + 1
        if attempt >= policy.max_attempts:
            self._note_failure(record, None, error, attempt)
        else:
            wait_ms = policy.delay_s(attempt, random()) * 1000 if delay_ms is None else delay_ms
            self._note_failure(record, wait_ms, error, attempt)

    def dead_letter(self, record: ConsumerRecord, error: object = None) -> None:
        """Note that a record cannot be processed: it goes to the group's dead letter topic. Else as `retry`.

        Raises:
            InvalidGroupIdError, IllegalStateError: as `retry`.
        """
        self._check_failed(record)
        self._note_failure(record, None, error, self._attempts_made(record) + 1)

    async def run(self, handler: Handler, *, retry: RetryPolicy | None = DEFAULT_RETRY, concurrency: int = 1) -> None:
        """Call the handler for every record, until `stop`, SIGTERM or SIGINT; then close. Commits what is done.

        A record is done when the handler returns, or has failed and is noted to be tried again or to be a dead letter.
        An offset is committed only when all before it are done: every auto_commit_interval_ms, when partitions change
        hands, and at the end, also if enable_auto_commit is off. A killed process gets again what was not committed.

        Records with the same key are processed one after another, in order. With a concurrency of 1 all records are.
        The handler may raise Reject, for a dead letter at once, or RetryLater; after any other exception, or one of a
        deserializer, the record is tried again by the policy. Meanwhile the consumer's calls that read, or change what
        is read, raise IllegalStateError. If the handler takes longer than max_poll_interval_ms,
        and nothing else begins or ends meanwhile, the member leaves the group until it comes back. What it has done
        counts then, unless another member has the partition.

        Args:
            handler: called with a record; the async client awaits what it returns if that can be awaited. The sync
                client calls it in threads.
            retry: what to do with what fails. None: the first exception ends `run`, which raises it.
            concurrency: how many records are worked on at a time.

        Raises:
            InvalidGroupIdError: the consumer has no group_id.
            InvalidRequestError: the handler is a generator function, or returns what would have to be run or awaited.
            IllegalStateError: it is closed, or runs already; or partitions were assigned without those of the retry
                topics, which `retry` needs unless it is blocking.
            PgqError: what `getmany` raises, but for errors that may pass: those are logged, and it goes on.
        """
        await AsyncRunner(self, handler, retry, concurrency).run()

    def stop(self) -> None:
        """End `run`: what has begun ends, and is committed. From any thread or signal handler.

        Nothing more is begun, but for records that wait for their key and lie before one that was begun.
        If `run` is called later, it ends at once.
        """
        self._stopping = True

    def metrics(self) -> dict[str, float]:
        """Return what pgq.telemetry.CONSUMER_METRICS describes."""
        runner = self._runner
        in_flight = 0 if runner is None else runner.in_flight()
        return self._counts | {"records_in_flight": in_flight, "partitions": len(self._assignment)}

    # failures

    def _refuse_while_running(self, call: str) -> None:
        if self._runner is not None:
            raise errors.IllegalStateError(f"{call} while run() is at work: it decides what is read, and where")

    def _attempts_made(self, record: ConsumerRecord) -> int:
        """Return how often the group has processed a record in vain before. Elsewhere headers are the application's."""
        return attempts_made(record) if record.headers and record.topic in self._retry_topics else 0

    def _check_failed(self, record: ConsumerRecord) -> RetryPolicy:
        if self._group_id is None:
            raise errors.InvalidGroupIdError("retry topics are a group's: give the consumer a group_id")
        if self._retry is None:
            raise errors.IllegalStateError(
                "this consumer does not read the group's retry topics: give it retry=RetryPolicy()"
            )
        state = self._state(TopicPartition(record.topic, record.partition))
        if state.committed is not None and record.offset < min(state.committed, state.restart or 0):
            raise errors.IllegalStateError(
                f"offset {record.offset} of {record.topic}-{record.partition} is committed already, as far as"
                f" {state.committed}: note what failed before that"
            )
        return self._retry

    def _note_failure(self, record: ConsumerRecord, delay_ms: float | None, error: object, attempt: int) -> None:
        tp = TopicPartition(record.topic, record.partition)
        committed = self._assignment[tp].committed if tp in self._assignment else None
        self._failures.note(tp, record.offset, delay_ms=delay_ms, error=error, attempt=attempt, committed=committed)

    async def _not_stored(self, failed: list[Note]) -> list[Note]:
        """Drop notes that a commit on the application's connection, or one whose answer was lost, has stored; return
        the others.
        """
        doubtful = {tp for tp, _, noted in failed if noted.sent is not None}
        if not doubtful:
            return failed
        committed = {tp: found.offset for tp, found in (await self._committed(doubtful)).items()}
        known = {state.tp: state.committed for state in self._assignment.all()}
        stored, others = split_stored(failed, committed, known)
        self._forget_failures(stored)
        return others

    def _forget_failures(self, failed: Iterable[Note]) -> None:
        """Drop notes that were stored, and be there when the first of them is due."""
        self._due.expect(self._failures.forget(failed))

    async def _make_retry_topics(self, topics: Collection[str]) -> frozenset[str]:
        """See to it that the topics have retry topics, and know which they are."""
        self._retry_topics = await self._retry_topic_maker.make(topics, skip_impossible=self._pattern is not None)
        return self._retry_topics

    def _retry_again(self) -> None:
        """Make the retry topics that were deleted."""
        self._retry_topic_maker.forget()
        self._looked_at = float("-inf")

    def _check_void(self, partitions: Iterable[TopicPartition]) -> None:
        """Refuse to commit the application's writes for records that another member gets, too."""
        void = self._void.intersection(partitions)
        self._void -= void
        if void:
            raise errors.CommitFailedError(
                f"not committed: {listed(void)} changed hands while records of it were worked on. Roll back, and go on"
                " polling: whoever has it reads on from the offset committed before",
                void,
            )

    def pause(self, *partitions: TopicPartition) -> None:
        """Return no records of these partitions until `resume`, also after a lost session."""
        self._refuse_while_running("pause()")
        for tp in partitions:
            state = self._state(tp)
            state.paused = True
            position = self._next(state)
            self._forget_buffered([state.tp])
            if position is not None and position != state.position:
                state.advance(position)
                state.more = False

    def resume(self, *partitions: TopicPartition) -> None:
        """Return records of these partitions again."""
        self._refuse_while_running("resume()")
        self._quiet_at = 0.0
        for tp in partitions:
            self._state(tp).paused = False

    def paused(self) -> set[TopicPartition]:
        """Return the partitions that are paused."""
        return {state.tp for state in self._assignment.all() if state.paused}

    # positions

    def _next(self, state: PartitionState) -> int | None:
        """Return the offset of the next record that the application gets."""
        topic, partition = state.tp
        for record in self._buffer:
            if record[1] == partition and record[0] == topic:
                return record.offset
        return state.position

    def _move(self, tp: TopicPartition, offset: int) -> None:
        if self._closed:
            raise errors.IllegalStateError("the consumer is closed: make a new one")
        state = self._state(tp)
        self._forget_buffered([state.tp])
        self._failures.forget_from(state.tp, offset)
        if self._runner is not None:
            self._runner.forget([state.tp])
        self._quiet_at = 0.0
        state.begin(offset)
        state.last = None
        state.truncated = False

    def _step_back(self, tp: TopicPartition, offset: int) -> None:
        """Read again what was read and has not been begun."""
        if tp in self._assignment:
            state = self._assignment[tp]
            self._forget_buffered([tp])
            self._quiet_at = 0.0
            state.advance(offset)
            state.more = False
            state.last = None

    def _forget_buffered(self, partitions: Iterable[TopicPartition]) -> None:
        if self._buffer:
            gone = set(partitions)
            self._buffer = deque(r for r in self._buffer if (r[0], r[1]) not in gone)

    def _delivered(self) -> dict[TopicPartition, int]:
        """Return for every partition where the application is; not where a failover has lost what it was given."""
        firsts: dict[tuple[str, int], int] = {}
        for record in self._buffer:
            firsts.setdefault((record[0], record[1]), record.offset)
        states = self._assignment.all()
        reached = {s.tp: firsts.get(s.tp, s.position) for s in states if s.position is not None and not s.truncated}
        return reached if self._runner is None else self._runner.done(reached)

    def _uncommitted(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Return those that are not known to be committed, or only without what has failed before them."""
        known = {state.tp: state.committed for state in self._assignment.all()}
        return {
            tp: offset
            for tp, offset in offsets.items()
            if tp in known and (known[tp] != offset or self._failures.any_before(tp, offset))
        }

    def _note_committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        for tp, offset in offsets.items():
            if tp in self._assignment:
                state = self._assignment[tp]
                state.restart = state.committed = offset

    def _replace(self, states: Iterable[PartitionState], *, lost: bool = False, in_doubt: bool = False) -> None:
        """Read these partitions from now on; those that stay keep where they are.

        Args:
            lost: the others may be this consumer's again in a moment: what was sought and paused counts then.
            in_doubt: what was read since may be committed, so that it must not be read again unless it surely is not.
        """
        self._quiet_at = 0.0
        before = self._assignment.all()
        self._assignment.replace(list(states))
        for state in before:
            if state.tp not in self._assignment or self._assignment[state.tp] is not state:
                self._before.pop(state.tp, None)
                if self._runner is not None:
                    self._runner.forget([state.tp])
                sent = self._failures.sent(state.tp)
                self._failures.forget_partition(state.tp)
                if (
                    not self._auto_commit
                    and state.restart is not None
                    and self._next(state) not in (state.restart, sent)
                ):
                    self._void.add(state.tp)
                if state.committed is None or (lost and sent is None and not in_doubt):
                    self._kept[state.partition_id] = _Kept(state.restart, state.committed, lost and state.paused)
                elif lost:
                    self._kept[state.partition_id] = _Kept(state.committed, state.committed, state.paused)
        self._forget_buffered({TopicPartition(r[0], r[1]) for r in self._buffer} - self._assignment.partitions())

    def _take_back(self) -> None:
        """Go back to where the last transaction left the application."""
        self._buffer.clear()
        self._void.clear()
        self._quiet_at = 0.0
        for state in self._assignment.all():
            if state.restart is not None:
                state.advance(state.restart)
                state.more = False
                self._failures.forget_from(state.tp, state.restart)

    def _claim_again(self) -> None:
        """Start from what is committed, once nothing more can come of a commit whose outcome is not known."""
        membership = self._membership
        if membership is not None and membership.member_id is not None:
            # what is not assigned is claimed again. Whoever claims waits for the transaction that has committed under
            # the epoch before
            self._replace([], lost=True, in_doubt=True)

    # the group, and what is read

    @property
    def _subscribed(self) -> bool:
        return bool(self._topics) or self._pattern is not None

    async def _connection(self) -> Any:
        if self._raw_connection is None or self._raw_connection.closed:
            self._listening.clear()
            self._parking.forget()
            if self._membership is not None:
                self._membership.lose("its connection was lost", with_session=True)
        if self._membership is not None and self._dsn is None:
            self._dsn = direct_dsn(None)
        return await super()._connection()

    async def _prepare(self) -> None:
        """See to it that what is read is what should be; commit if it is time."""
        if time.monotonic() >= self._due.at:
            await self._due.deliver()
        if self._is_time_to_commit():
            await self._commit_delivered(self._delivered())
        if self._subscription_changed:
            await self._follow_subscription()
        if not self._subscribed:
            return
        if self._membership is not None:
            await self._rebalance(self._membership)
        elif self._is_old(self._looked_at):
            await self._find_partitions()

    def _is_time_to_commit(self) -> bool:
        now = time.monotonic()
        due = now - self._committed_at >= self._auto_commit_interval_s or now >= self._failures.commit_by
        return self._auto_commit and due

    def _is_old(self, looked_at: float) -> bool:
        return time.monotonic() - looked_at >= self._metadata_max_age_s

    async def _topics_now(self) -> tuple[str, ...]:
        """Return the topics that the subscription comes to."""
        pattern, now = self._pattern, time.monotonic()
        if self._newest_topic is None:
            self._newest_topic = (await self._fetch(statements.NEWEST_TOPIC))[0][0]
        if pattern is None:
            topics = self._topics
        else:
            rows = await self._fetch(statements.TOPIC_NAMES)
            topics = tuple(name for (name,) in rows if pattern.match(name))
        if self._retry is not None:
            retry_topics = sorted(await self._make_retry_topics(topics))
            topics = tuple(
                dict.fromkeys([*(t for t in topics if t not in self._retry_topic_maker.impossible), *retry_topics])
            )
        self._looked_at = now
        return topics

    async def _find_partitions(self) -> None:
        """Read all partitions of the topics: a consumer without a group."""
        topics = await self._topics_now()
        states = []
        for topic in topics:
            topic_id, partition_ids, *_ = (await self._fetch(statements.TOPIC_METADATA, topic))[0]
            states += [PartitionState(TopicPartition(topic, n), topic_id, p) for n, p in enumerate(partition_ids)]
        for state in states:
            state.added = state.topic_id > (self._newest_topic or 0) or state.tp.topic in self._read_topics
        if {s.partition_id for s in states} != {s.partition_id for s in self._assignment.all()}:
            self._replace(states)
        self._read_topics = topics

    async def _follow_subscription(self) -> None:
        """Finish with what was read before `assign`, `subscribe` or `unsubscribe`, as far as that is no more."""
        async with self._following:
            if not self._subscription_changed:
                return
            membership = self._membership
            if not self._subscribed or self._manual:
                self._read_topics = ()
                if membership is not None and not self._manual:
                    await self._give_up(membership, self.assignment())
                    await membership.leave("it has unsubscribed")
                    self._due.alone, self._due.at = True, 0.0
                elif self._auto_commit:
                    await self._commit_delivered(self._delivered())
                self._replace([])
                self._manual = False
            elif self._pattern is None:
                for topic in self._topics:
                    await self._fetch(statements.TOPIC_METADATA, topic)  # which says so if there is none
            self._looked_at = float("-inf")
            self._newest_topic = None
            self._subscription_changed = False

    async def _rebalance(self, membership: AsyncMembership) -> None:
        """Take part in the group: join it if this is no member, give up what is another's, claim what is free."""
        async with self._mutex:
            await self._connection()
        if membership.member_id is not None:
            await self._beat(membership, _BEAT_S if self._quiet_at else _BUSY_BEAT_S)
        if self._looked_at == float("-inf") or (self._pattern is not None and self._is_old(self._looked_at)):
            self._read_topics = await self._topics_now()
        if membership.member_id is None:
            await self._join(membership)
        elif membership.topics != sorted(self._read_topics):
            await membership.change_topics(self._read_topics)
        await self._listen([membership.channel])
        if membership.stale and membership.member_id is not None:
            await membership.work_out()
            self._claim_at = 0.0
            self._missing_since = time.monotonic()
        if membership.member_id is None:
            return  # the next call joins again
        surplus = membership.surplus()
        if self._runner is not None:
            surplus = self._runner.finished(surplus)  # the rest later; nobody waits for it here
        if surplus or membership.unsure:
            if surplus:
                await self._give_up(membership, surplus)
            await membership.keep(membership.claims.keys() - surplus)
        now = time.monotonic()
        missing = self._missing(membership)
        if missing and now >= self._claim_at:
            await self._take_over(membership, missing)
            self._claim_at = now + (_CLAIM_S if now - self._missing_since < _CLAIM_SOON_S else _CLAIM_LATER_S)
        error, self._listener_error = self._listener_error, None
        if error is not None:
            raise error

    def _missing(self, membership: AsyncMembership) -> set[TopicPartition]:
        """Return what should be read and is not yet, since its owner is finishing or a call was interrupted."""
        return {tp for tp in membership.target if tp not in self._assignment}

    async def _tell(self, listen: Callable[[set[TopicPartition]], Any], partitions: set[TopicPartition]) -> None:
        """Tell the listener. What it raises is raised when the partitions have changed hands: others wait for them."""
        try:
            await call(listen, partitions)
        except Exception as error:  # noqa: BLE001 - the application's, and given back to it
            self._listener_error = self._listener_error or error

    async def _join(self, membership: AsyncMembership) -> None:
        await membership.let_go()
        lost = self.assignment()
        if lost:
            logger.warning("group %s: lost %s: %s", self._group_id, listed(lost), membership.reason)
            if self._auto_commit:
                await self._commit_delivered(self._delivered())  # in case that nobody has claimed them yet
            self._replace([], lost=True)
            if self._listener is not None:
                await self._tell(self._listener.on_partitions_lost, lost)
        if membership.fenced:
            raise errors.FencedInstanceIdError(
                f"another consumer of group {self._group_id!r} has joined with this group_instance_id: close this one"
            )
        if self._raw_connection.pooled:
            raise errors.UnsupportedPoolerError(
                "a member of a group needs a session of its own, and this connection goes through a pooler, such as"
                " PgBouncer: set PGQ_DIRECT_DSN, or dsn=, to reach the server directly"
            )
        await membership.join(self._read_topics)
        self._due.alone = False
        self._beat_at = self._progress_at = time.monotonic()
        self._start_worker()

    async def _give_up(self, membership: AsyncMembership, partitions: set[TopicPartition]) -> None:
        """Finish with partitions that are to be another's."""
        if self._runner is not None:
            await self._runner.finish(partitions)
        if self._auto_commit:
            delivered = self._delivered()
            await self._commit_delivered({tp: o for tp, o in delivered.items() if tp in partitions})
        if partitions and self._listener is not None and membership.member_id is not None:
            await self._tell(self._listener.on_partitions_revoked, set(partitions))
        logger.info("group %s: gives up %s", self._group_id, listed(partitions))
        self._replace(state for state in self._assignment.all() if state.tp not in partitions)

    async def _take_over(self, membership: AsyncMembership, partitions: set[TopicPartition]) -> None:
        """Begin with partitions as far as they have become free."""
        claimed = await membership.claim(partitions)
        if not claimed:
            return
        # nothing is awaited before they are assigned: what is claimed and not assigned would be claimed again
        for state, committed, added in claimed:
            kept = self._kept.pop(state.partition_id, _Kept(None, None, paused=False))
            position = kept.restart if kept.committed == committed and kept.restart is not None else committed
            state.paused = kept.paused
            state.added = added or (self._newest_topic is not None and state.topic_id > self._newest_topic)
            if position is not None:
                state.begin(position)
                state.committed = committed
        self._replace([*self._assignment.all(), *(state for state, *_ in claimed)])
        new = {state.tp for state, *_ in claimed}
        waiting = len(self._missing(membership))
        logger.info("group %s: reads %s, with %d others to come", self._group_id, listed(new), waiting)
        if self._listener is not None:
            await self._tell(self._listener.on_partitions_assigned, new)

    def _meet_deleted(self, state: PartitionState) -> None:
        if self._manual:
            super()._meet_deleted(state)
        logger.warning("group %s: %s-%d was deleted", self._group_id, *state.tp)
        self._replace(other for other in self._assignment.all() if other is not state)
        if self._membership is not None:
            self._membership.stale = True  # or it would claim the partitions of a topic made anew for the old ones
        self._retry_again()

    async def _beat(self, membership: AsyncMembership, every_s: float) -> None:
        now = time.monotonic()
        if now - self._beat_at >= every_s:
            self._beat_at = now
            await membership.beat()
            self._due.heed(membership.next_due_ms)

    async def _commit_delivered(self, offsets: dict[TopicPartition, int]) -> None:
        """Commit by itself, what has changed; a failure is logged and the next time tries again."""
        self._committed_at = time.monotonic()
        changed = self._uncommitted(offsets)
        self._commit_failed = True
        try:
            await self._commit_changed(changed)
        finally:
            # what stands behind a record that is not done yet is late: soon again
            self._failures.commit_by = max(self._failures.first_due(), time.monotonic() + _COMMIT_AGAIN_S)

    async def _commit_changed(self, changed: dict[TopicPartition, int]) -> None:
        no_member = self._membership is not None and self._membership.member_id is None
        try:
            if changed:
                await self.commit(changed)
            self._commit_failed = False
        except errors.CommitFailedError as error:
            if not no_member or len(changed) == 1:
                logger.warning("group %s: automatic commit: %s", self._group_id, error)
                return
            for tp, offset in changed.items():  # without those that somebody else has claimed
                await self._commit_changed({tp: offset})
        except errors.UnknownTopicError:
            for topic in {tp.topic for tp in changed}:  # without the one that was deleted
                try:
                    await self.commit({tp: offset for tp, offset in changed.items() if tp.topic == topic})
                except errors.PgqError as error:
                    logger.warning("group %s: automatic commit: %s", self._group_id, error)
        except errors.PgqError as error:
            logger.warning("group %s: automatic commit: %s", self._group_id, error)

    # the worker: what has to be done although the application is busy

    def _start_worker(self) -> None:
        if self._worker is None or not self._worker.running:
            self._worker = Worker(self._work, f"pgq-consumer-{self._group_id}")

    async def _work(self) -> None:
        while not await self._ending.wait(_BEAT_S):
            try:
                await self._tend()
            except errors.PgqError as error:
                logger.debug("group %s: %s", self._group_id, error)
            except Exception:  # noqa: BLE001 - a session without a heartbeat would be taken for dead
                logger.exception("group %s: in the background", self._group_id)

    async def _tend(self) -> None:
        connection, membership = self._raw_connection, self._membership
        if connection is None or connection.closed:
            self._attention = True
            return
        now = time.monotonic()
        progress = (self._polls, len(self._buffer))
        if self._polling or self._runner is not None or progress != self._progress:  # it sees to that itself
            self._progress, self._progress_at = progress, now
        elif self._parking.parked and now - self._progress_at > _PARKED_LOOK_S:
            await self._parking.unpark()
        if membership is not None:
            await membership.let_go()  # others wait for it
        if membership is not None and membership.member_id is not None:
            if now - self._progress_at > self._max_poll_interval_s:
                logger.warning("group %s: left, since nothing was polled for max_poll_interval_ms", self._group_id)
                self._attention = True
                await membership.leave("nothing was polled for max_poll_interval_ms")
            if not self._subscribed:
                if not self._polling:
                    await self._follow_subscription()
                return
            await self._beat(membership, _BEAT_S)
            if time.monotonic() >= self._due.at:
                await self._due.deliver()
            due = self._auto_commit and now - self._committed_at >= self._auto_commit_interval_s
            if membership.stale or membership.member_id is None or self._missing(membership) or due:
                self._attention = True

    async def _close(self, *, failed: bool) -> None:
        if self._closed:
            return
        if self._runner is not None and not self._runner.closes:
            self.stop()  # it closes when what has begun has ended
            return
        self._ending.set()
        membership = self._membership
        try:
            if self._auto_commit:
                await self._commit_delivered(self._done() if failed else self._delivered())
            connection = self._raw_connection
            if connection is not None and not connection.closed:
                member = membership is not None and membership.member_id is not None
                if member and self._listener is not None and self._assignment:
                    await call(self._listener.on_partitions_revoked, self._assignment.partitions())
                await self._parking.unpark()
                if member and membership is not None and not membership.static:
                    await membership.leave("it was closed")
        except errors.PgqError as error:
            logger.warning("group %s: while closing: %s", self._group_id, error)
        finally:
            self._closed = True
            self._buffer.clear()
            if self._worker is not None:
                await self._worker.join()
            await self._transactions.close()
            await self._disconnect()

    def _done(self) -> dict[TopicPartition, int]:
        """Return how far the application has surely come, beyond what is committed, when it fails with what it has."""
        reached = dict(self._before)
        if self._given is not None:
            firsts: dict[TopicPartition, int] = {}
            for record in (self._given, *self._buffer):
                firsts.setdefault(TopicPartition(record[0], record[1]), record.offset)
            reached = {s.tp: firsts.get(s.tp, s.position) for s in self._assignment.all() if s.position is not None}
        return {
            s.tp: reached[s.tp]
            for s in self._assignment.all()
            if s.tp in reached and reached[s.tp] > (s.committed or s.restart or 0)
        }

    # polling

    async def _getmany(
        self, only: set[TopicPartition], limit: int, timeout_s: float
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        start = time.monotonic()
        deadline = start + timeout_s
        failures = 0
        self._refuse_second_call()
        self._polls += 1
        result: dict[TopicPartition, list[ConsumerRecord]] = {}
        self._polling = True
        try:
            if self._auto_commit:
                self._before = self._delivered()
            while True:
                try:
                    await self._prepare()
                    result = self._take_buffered(only, limit) if self._buffer else {}
                    if not (result and self._is_enough(result, limit, deadline, start)) and not self._is_quiet(
                        timeout_s
                    ):
                        await self._poll(result, only, limit)
                    failures = 0
                    if (result and self._is_enough(result, limit, deadline, start)) or time.monotonic() >= deadline:
                        break
                    # not the application's yet, so not to be committed for it, nor lost if this call is cancelled
                    until = min(deadline, start + self._fetch_max_wait_s) if result else deadline
                    self._put_back(result)
                    looked_at = time.monotonic()
                    await self._wait(max(0.0, until - looked_at))
                    rest_s = min(looked_at + _BESIDE_S, until) - time.monotonic()
                    if only and self._runner is not None and rest_s > 0:
                        await sleep(rest_s)
                except AWAY as error:
                    if result:
                        break
                    failures += 1
                    await self._excuse(error, failures, deadline - time.monotonic())
            if result:
                self._idle = 0
                if self._parking.parked:
                    await self._parking.unpark_quietly()
        except BaseException:
            self._put_back(result)
            raise
        finally:
            self._polling = False
        return result

    def _refuse_second_call(self) -> None:
        if self._polling:
            raise errors.IllegalStateError(
                "this consumer is in a call that reads already: not in a listener, nor from several threads or tasks"
            )

    def _is_enough(
        self, result: dict[TopicPartition, list[ConsumerRecord]], limit: int, deadline: float, start: float
    ) -> bool:
        if self._fetch_min_bytes == 1 or time.monotonic() >= min(deadline, start + self._fetch_max_wait_s):
            return True
        if sum(map(len, result.values())) >= limit:
            return True
        size = sum(_size(record.key) + _size(record.value) for batch in result.values() for record in batch)
        return size >= self._fetch_min_bytes

    def _is_quiet(self, timeout_s: float) -> bool:
        """Whether it is not worth while to look: what is appended notifies, which whoever waits will hear."""
        return self._parking.parked and timeout_s > 0 and time.monotonic() - self._quiet_at < _PARKED_LOOK_S

    async def _excuse(self, error: errors.PgqError, failures: int, left_s: float) -> None:
        """Wait before the server is asked again, or raise the error."""
        if not error.retriable or left_s <= 0:
            raise error
        if isinstance(error, errors.NotLeaderError):
            await self._disconnect()  # another of the DSN's hosts may be the leader
        log = logger.warning if failures == 1 else logger.debug
        log("consumer: %s: tries again", error)
        await sleep(min(backoff_s(failures, 0.05, 1.0, random()), left_s))

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

    def _put_back(self, result: dict[TopicPartition, list[ConsumerRecord]]) -> None:
        """Keep records for the next call, before those that were read after them."""
        for batch in result.values():
            self._buffer.extendleft(reversed(batch))
        result.clear()

    async def _poll(
        self, result: dict[TopicPartition, list[ConsumerRecord]], only: set[TopicPartition], limit: int
    ) -> None:
        """Add what there is to the result. What is not in it was not read: if one partition fails, the others' records
        are there, and the next call meets the failure; if there is nothing to return, no position has moved.
        """
        if not self._assignment:
            if not self._subscribed:
                raise errors.IllegalStateError("nothing to read: name topics, or assign partitions")
            return
        begun = await self._find_positions()
        if begun and self._auto_commit and self._reset_policy != "earliest":
            # who takes over before the first commit would else begin with what is latest then
            await self._commit_delivered({s.tp: s.position for s in begun if s.position is not None})
        states = [s for s in self._assignment.rotate() if not only or s.tp in only]
        looked_at, self._quiet_at = time.monotonic(), 0.0
        before = [(state, state.position, state.last) for state in states]
        membership = self._membership
        member_id = membership.member_id if membership is not None else None
        found: dict[TopicPartition, list[ConsumerRecord]] = {}
        try:
            await self._read_all(found, states, limit - sum(map(len, result.values())))
        except BaseException as error:
            if not (found and isinstance(error, Exception)):
                self._undo(before, found)
                raise
        if membership is not None and membership.member_id != member_id:
            self._undo(before, found)  # others may read these partitions by now; this member is about to find out
            return
        if not found and membership is None and self._subscribed and self._looked_at == float("-inf"):
            await self._find_partitions()  # a topic was deleted: it was made anew, or this says so
        for tp, batch in found.items():
            result.setdefault(tp, []).extend(batch)
        if not found and not only and all(state.is_at_end for state in states):
            self._quiet_at = looked_at

    @staticmethod
    def _undo(before: list[tuple[PartitionState, int | None, Any]], found: Collection[TopicPartition]) -> None:
        """Stand again where the application is, in partitions of which it does not get what was found."""
        for state, position, last in before:
            if position is not None and state.tp in found:
                state.advance(position)
                state.last = last

    # waiting

    async def _wait(self, left_s: float) -> None:
        """Wait until it is worth while to look again: until something was appended, or the group has changed."""
        connection, membership = self._raw_connection, self._membership
        if connection is None or connection.closed:
            return
        now = time.monotonic()
        if membership is not None and self._subscribed:
            if membership.member_id is None or membership.stale:
                return
            if self._missing(membership):
                await self._hear(
                    connection, min(left_s, max(0.001, self._claim_at - now), _QUICK_S[-1] * 2**self._idle)
                )
                self._idle = min(self._idle + 1, 4)
                return
        if connection.pooled:
            await sleep(min(left_s, _QUICK_S[0] * 2**self._idle, _POOLED_LAST_S))
            self._idle += self._idle < 7
            return
        if self._idle < len(_QUICK_S):
            self._idle += 1
            await sleep(min(left_s, _QUICK_S[self._idle - 1]))
            return
        topic_ids = sorted({state.topic_id for state in self._assignment.all() if not state.paused})
        if self._parking.parked and topic_ids != self._parking.topic_ids:
            await self._parking.unpark()
        if topic_ids and not self._parking.parked:
            await self._park(topic_ids)
            return  # somebody is appending; or it has just been parked, and has to look once more
        until = min(now + min(left_s, _PARKED_LOOK_S), self._due.at)
        while (left_s := until - time.monotonic()) > 0:
            if await self._hear(connection, min(left_s, _BEAT_S)) or connection.closed or self._attention:
                return
            if membership is not None and membership.member_id is not None and self._subscribed:
                await self._beat(membership, _BEAT_S * 0.9)
                until = min(until, self._due.at)
                if membership.stale or membership.member_id is None:
                    return
        if self._parking.relies_on_others:
            await self._parking.unpark()

    async def _hear(self, connection: Any, seconds: float) -> bool:
        """Wait for a notification; return whether one came."""
        channels: set[str] = await connection.wait_for_notification(seconds)
        if not channels:
            return False
        if self._membership is not None and self._membership.channel in channels:
            self._beat_at = self._claim_at = 0.0
            channels = channels - {self._membership.channel}
        if channels:
            self._idle = 0
            if self._parking.parked:
                await self._parking.unpark(notified=True)
        return True

    async def _park(self, topic_ids: list[int]) -> None:
        """Have appends to these topics notify, unless some are in flight. The log has to be looked at afterwards."""
        self._quiet_at = 0.0
        await self._listen([f"pgq_{topic_id}" for topic_id in topic_ids])
        if await self._parking.park(topic_ids):
            self._start_worker()
        else:
            await sleep(_QUICK_S[0])

    async def _listen(self, channels: list[str]) -> None:
        new = [channel for channel in channels if channel not in self._listening]
        if new:
            async with self._mutex:
                connection = await self._connection()
                async with self._in_time(connection):
                    await connection.listen(new)
                self._listening.update(new)


def _names(topics: Iterable[str]) -> tuple[str, ...]:
    names = list(topics)
    for name in names:
        if not isinstance(name, str):
            raise errors.InvalidTopicError(f"a topic's name is a string, not {name!r}")
    return tuple(dict.fromkeys(names))


def _size(part: Any) -> int:
    """Return the bytes of a key or a value; of one that was deserialized, a guess."""
    return 0 if part is None else len(part) if isinstance(part, bytes | str) else 64
