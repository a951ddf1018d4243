"""Topics and consumer groups: create, delete, describe, list, configure, set offsets."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from pgq import errors
from pgq.aio.client import READ_COMMITTED, AsyncClient
from pgq.core import statements
from pgq.core.compression import decompress
from pgq.drivers.tasks import sleep
from pgq.types import (
    ClusterDescription,
    ConsumerGroupDescription,
    ConsumerGroupListing,
    DeadLetter,
    MemberDescription,
    OffsetAndMetadata,
    OffsetReset,
    ServerDescription,
    SettledDeadLetter,
    TopicDescription,
    TopicPartition,
)

Progress = Callable[[int, int], object]
"""Called with how much is done, and how much there is to do."""

_ONE_TRANSACTION = 25
"""Partitions that are made in one transaction: what a step of pgq.create_topic_step makes."""
_RETRY_S = 0.1
_MOST_BYTES = 104_857_600
"""How long a dead letter's value may become when it is decompressed, as a consumer's by default."""


class AsyncAdmin(AsyncClient):
    """Manages topics and consumer groups, and describes the cluster.

    Large topics are made, grown and deleted in steps, a transaction each, so that nobody else is hurt; a call that was
    interrupted is finished by the same call again. Every other call is one transaction.

    Args:
        dsn: libpq connection string or URL; PGQ_DSN if None.
    """

    _settings = (READ_COMMITTED,)

    async def create_topic(
        self,
        name: str,
        partitions: int = 1,
        config: Mapping[str, int | str | None] | None = None,
        *,
        progress: Progress | None = None,
    ) -> TopicDescription:
        """Create a topic of 1 to 1,000 partitions, or finish what an interrupted call began.

        Raises:
            TopicAlreadyExistsError, InvalidTopicError, InvalidPartitionsError, InvalidConfigError
        """
        settings = _settings(config or {})
        if partitions <= _ONE_TRANSACTION:
            return (await self._describe(statements.CREATE_TOPIC, name, partitions, settings))[0]
        await self._make_partitions(partitions, progress, statements.CREATE_TOPIC_STEP, name, partitions, settings)
        return await self.describe_topic(name)

    async def add_partitions(self, name: str, partitions: int, *, progress: Progress | None = None) -> TopicDescription:
        """Give a topic more partitions, all at once when all are made, or finish what an interrupted call began.

        Records of a key go to another partition from then on. Producers see the new partitions when they next ask for
        the topic's metadata (metadata_max_age_ms), consumers when they are started.

        Args:
            partitions: how many the topic shall have in all, up to 1,000.

        Raises:
            UnknownTopicError
            InvalidPartitionsError: not more than it has, or too many.
        """
        await self._make_partitions(partitions, progress, statements.ADD_PARTITIONS_STEP, name, partitions)
        return await self.describe_topic(name)

    async def delete_topic(self, name: str, *, timeout_ms: int = 60_000, progress: Progress | None = None) -> None:
        """Delete a topic, its records and the offsets committed for it, or finish what an interrupted call began.

        Nobody new can use the topic from the first step on; transactions that use it are waited for.

        Args:
            timeout_ms: how long to wait for those without getting any further.

        Raises:
            UnknownTopicError
            RequestTimedOutError: somebody still uses the topic. It cannot be used any more: call again to go on.
        """
        connection = await self._connection()
        total = 0
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            try:
                left = (await connection.fetch(statements.DELETE_TOPIC_STEP, name))[0][0]
            except errors.UnknownTopicError:
                if total:
                    return  # somebody else did the rest
                raise
            except errors.DatabaseError as error:
                if not error.retriable:
                    raise
                if time.monotonic() >= deadline:
                    raise errors.RequestTimedOutError(
                        f"topic {name!r} is still used by a transaction that began before it was deleted:"
                        " end that one (see pg_locks), and delete the topic again to go on"
                    ) from error
                await sleep(_RETRY_S)
                continue
            total = max(total, left)
            if progress is not None:
                progress(total - left, total)
            if left == 0:
                return
            deadline = time.monotonic() + timeout_ms / 1000

    async def _make_partitions(self, partitions: int, progress: Progress | None, step: str, *args: Any) -> None:
        connection = await self._connection()
        while True:
            left = (await connection.fetch(step, *args))[0][0]
            if progress is not None:
                progress(partitions - left, partitions)
            if left == 0:
                return

    async def describe_topic(self, name: str) -> TopicDescription:
        """Return a topic's description.

        Raises:
            UnknownTopicError
        """
        return (await self._describe(statements.DESCRIBE_TOPIC, name))[0]

    async def list_topics(self) -> list[TopicDescription]:
        """Return the descriptions of all topics, by name."""
        return await self._describe(statements.LIST_TOPICS)

    async def describe_cluster(self) -> ClusterDescription:
        """Describe the servers that hold the log, and what acks=all means right now: the present, not a snapshot.

        On a standby, which does not know the others, itself alone. What the owner of schema pgq may not see, without
        pg_read_all_stats, is None.
        """
        connection = await self._connection()
        servers = [ServerDescription(*row) for row in await connection.fetch(statements.DESCRIBE_CLUSTER)]
        return ClusterDescription(servers, *(await connection.fetch(statements.ACKS_STATUS))[0])

    async def alter_topic_config(self, name: str, config: Mapping[str, int | str | None]) -> TopicDescription:
        """Change the keys given, None for back to the default; return the description.

        Raises:
            UnknownTopicError, InvalidConfigError
        """
        return (await self._describe(statements.ALTER_TOPIC_CONFIG, name, _settings(config)))[0]

    async def delete_records(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Move log starts up to these offsets (-1: the high watermark); return the log starts.

        Each partition is a transaction of its own, in the order given: where one of them fails, those before it stay
        deleted. Offsets are checked before anything is.

        Raises:
            InvalidRequestError: an offset is no whole number, or none that there can be. Nothing was deleted.
            UnknownTopicError, UnknownPartitionError, OffsetOutOfRangeError
        """
        for tp, offset in offsets.items():
            if isinstance(offset, bool) or not isinstance(offset, int) or not -(2**63) <= offset < 2**63:
                raise errors.InvalidRequestError(
                    f"an offset to delete up to is a whole number below 2^63, or -1 for the high watermark, not"
                    f" {offset!r} ({tp}): nothing was deleted"
                )
        connection = await self._connection()
        result = {}
        for tp, offset in offsets.items():
            rows = await connection.fetch(statements.DELETE_RECORDS, tp[0], tp[1], offset)
            result[TopicPartition(*tp)] = rows[0][0]
        return result

    async def cancel_delayed(self, delayed_id: str) -> bool:
        """Take back a record that waits until it is due; return whether it still waited.

        Once this has returned True the record is never appended. In a transaction of your own: pgq.cancel_delayed.

        Raises:
            InvalidDelayedIdError: it is no id of a delayed record.
        """
        cancelled: bool = (await (await self._connection()).fetch(statements.CANCEL_DELAYED, delayed_id))[0][0]
        return cancelled

    async def list_consumer_groups(self, states: Iterable[str] | None = None) -> list[ConsumerGroupListing]:
        """Return the consumer groups by name, of these states (Empty, Stable, Rebalancing) or all."""
        wanted = None if states is None else list(states)
        rows = await (await self._connection()).fetch(statements.LIST_GROUPS, wanted)
        return [ConsumerGroupListing(*row) for row in rows]

    async def describe_consumer_groups(self, group_ids: Iterable[str]) -> list[ConsumerGroupDescription]:
        """Describe groups and their members, in the order given: the present, not a snapshot.

        Raises:
            GroupIdNotFoundError
        """
        wanted = list(group_ids)
        connection = await self._connection()
        found = {row[0]: row for row in await connection.fetch(statements.DESCRIBE_GROUPS, wanted)}
        members: dict[str, list[MemberDescription]] = {group_id: [] for group_id in wanted}
        for group_id, *fields, topics, assignment in await connection.fetch(statements.DESCRIBE_MEMBERS, wanted):
            held = [TopicPartition(t, p) for t, numbers in json.loads(assignment or "{}").items() for p in numbers]
            members[group_id].append(MemberDescription._make([*fields, tuple(topics), tuple(sorted(held))]))
        for group_id in wanted:
            if group_id not in found:
                raise errors.GroupIdNotFoundError(
                    f"unknown group {group_id!r}: `pgq group list` shows those that there are"
                )
        return [ConsumerGroupDescription._make([*found[group_id], members[group_id]]) for group_id in wanted]

    async def list_consumer_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None = None
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return what a group has committed, for these partitions or all; nothing for a group that there is not."""
        topics, numbers = (None, None) if partitions is None else _arrays(partitions)
        rows = await (await self._connection()).fetch(statements.COMMITTED_OFFSETS, group_id, topics, numbers)
        return {TopicPartition(r[0], r[1]): OffsetAndMetadata(r[2], r[3]) for r in rows}

    async def alter_consumer_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
    ) -> None:
        """Store offsets for a group that has no members, whatever the log holds. It is made if it does not exist.

        Raises:
            NonEmptyGroupError: stop its members first.
            UnknownTopicError, UnknownPartitionError, InvalidGroupIdError, InvalidCommitOffsetError
        """
        given = [o if isinstance(o, OffsetAndMetadata) else OffsetAndMetadata(o) for o in offsets.values()]
        topics, numbers = _arrays(offsets)
        await (await self._connection()).fetch(
            statements.ALTER_GROUP_OFFSETS,
            group_id,
            topics,
            numbers,
            [o.offset for o in given],
            [o.metadata for o in given],
        )

    async def reset_consumer_group_offsets(
        self,
        group_id: str,
        spec: str,
        value: int | str | datetime | timedelta | None = None,
        *,
        topics: Iterable[str] | None = None,
        partitions: Iterable[TopicPartition] | None = None,
        offsets: Mapping[TopicPartition, int] | None = None,
        execute: bool = False,
    ) -> list[OffsetReset]:
        """Work out other committed offsets for a group, as kafka-consumer-groups does; store them if told so.

        An offset outside of the log becomes the log start or the high watermark.

        Args:
            spec: "to-earliest", "to-latest", "to-current", "to-offset", "shift-by", "to-datetime" or "by-duration".
            value: the offset, the shift, the time, or how long ago. As text a time is ISO-8601 and a duration
                PnDTnHnMnS; without a time zone it is the session's.
            topics: topics with all their partitions.
            partitions: these as well. Without either every partition that the group has committed an offset for.
            offsets: for "to-offset", instead of a value: one a partition.
            execute: whether to store them. A group that does not exist is made then, if topics or partitions are named.

        Raises:
            NonEmptyGroupError: stop its members first. Only with execute.
            GroupIdNotFoundError: it does not exist, and neither topics nor partitions are named.
            NoOffsetForPartitionError: there is nothing to shift.
            UnknownTopicError, UnknownPartitionError, InvalidGroupIdError, InvalidRequestError, NotLeaderError
        """
        named: list[tuple[str, int | None]] | None = None
        if topics is not None or partitions is not None or offsets is not None:
            named = [(topic, None) for topic in topics or ()]
            named += [(tp[0], tp[1]) for tp in [*(partitions or ()), *(offsets or ())]]
        rows = await (await self._connection()).fetch(
            statements.RESET_OFFSETS,
            group_id,
            spec,
            _as_text(value),
            None if named is None else [topic for topic, _ in named],
            None if named is None else [partition for _, partition in named],
            None if offsets is None else list(offsets.values()),
            execute,
        )
        return [OffsetReset(*row) for row in rows]

    async def delete_consumer_groups(self, group_ids: Iterable[str]) -> None:
        """Delete groups with all that they have committed: all of them, or none if one cannot be.

        Raises:
            NonEmptyGroupError: a group has members; stop them first.
            GroupIdNotFoundError
        """
        await (await self._connection()).fetch(statements.DELETE_GROUPS, list(group_ids))

    async def delete_consumer_group_offsets(self, group_id: str, partitions: Iterable[TopicPartition]) -> int:
        """Forget what a group has committed for these partitions; return how many of them had an offset.

        Raises:
            GroupSubscribedToTopicError: members of the group read a topic; stop them first.
            GroupIdNotFoundError, UnknownTopicError, UnknownPartitionError
        """
        rows = await (await self._connection()).fetch(statements.DELETE_GROUP_OFFSETS, group_id, *_arrays(partitions))
        return int(rows[0][0])

    async def list_dead_letters(
        self,
        topic: str | None = None,
        group_id: str | None = None,
        *,
        error: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        most: int = 100,
    ) -> list[DeadLetter]:
        """Return records that groups could not process and that nobody has redriven or purged, oldest failure first.

        Args:
            topic: only of this origin: the topic that they were first read from.
            group_id: only of this group.
            error: only those whose first or last error contains this text; upper and lower case are the same.
            since: only those that failed last at that time or later: a datetime with a time zone.
            until: only those that failed last before that time.
            most: how many at most. Their values come with them.

        Raises:
            UnknownTopicError, GroupIdNotFoundError, InvalidRequestError, NotLeaderError
        """
        args = _filters(topic, group_id, error, since, until, most)
        rows = await (await self._connection()).fetch(statements.LIST_DEAD_LETTERS, *args)
        return [_dead_letter(row) for row in rows]

    async def redrive_dead_letters(
        self,
        topic: str | None = None,
        group_id: str | None = None,
        *,
        error: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        most: int = 100,
        execute: bool = False,
    ) -> list[SettledDeadLetter]:
        """Send dead letters back to the retry topics of their groups, if told so; return which, oldest failure first.

        Their groups process them anew, with all attempts. Each is sent once, also by calls at the same time. A call is
        one transaction; call again until nothing is returned. With `until` those that fail again meanwhile stay.

        Args:
            topic, group_id, error, since, until, most: which, as for list_dead_letters.
            execute: whether to do it. Otherwise the result is what the next call would do.

        Raises:
            UnknownTopicError: also if a group has no retry topic any more.
            GroupIdNotFoundError, InvalidRequestError, NotLeaderError, NotEnoughReplicasError
        """
        args = _filters(topic, group_id, error, since, until, most)
        rows = await (await self._connection()).fetch(statements.REDRIVE_DEAD_LETTERS, *args, execute)
        return [SettledDeadLetter(*row) for row in rows]

    async def purge_dead_letters(
        self,
        topic: str | None = None,
        group_id: str | None = None,
        *,
        error: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        most: int = 100,
        execute: bool = False,
    ) -> list[SettledDeadLetter]:
        """Give dead letters up, if told so; return which, oldest failure first. They are listed no more.

        They are deleted as soon as no earlier one of their topic is kept; space comes back by whole segments.

        Args:
            topic, group_id, error, since, until, most: which, as for list_dead_letters.
            execute: whether to do it. Otherwise the result is what the next call would do.

        Raises:
            UnknownTopicError, GroupIdNotFoundError, InvalidRequestError, NotLeaderError
        """
        args = _filters(topic, group_id, error, since, until, most)
        rows = await (await self._connection()).fetch(statements.PURGE_DEAD_LETTERS, *args, execute)
        return [SettledDeadLetter(*row) for row in rows]

    async def _describe(self, statement: str, *args: Any) -> list[TopicDescription]:
        rows = await (await self._connection()).fetch(statement, *args)
        return [TopicDescription(r[0], r[1], r[2], json.loads(r[3])) for r in rows]


def _arrays(partitions: Iterable[TopicPartition]) -> tuple[list[str], list[int]]:
    given = [TopicPartition(*tp) for tp in partitions]
    return [tp.topic for tp in given], [tp.partition for tp in given]


def _settings(config: Mapping[str, int | str | None]) -> str:
    """Return a topic's configuration as JSON; the server says which keys and values there are."""
    if not isinstance(config, Mapping):
        raise errors.InvalidConfigError(f"topic config must be a mapping of keys to values, not {config!r}")
    try:
        return json.dumps(dict(config), allow_nan=False)
    except (TypeError, ValueError):
        raise errors.InvalidConfigError(
            f"topic config has a value that is no whole number, word or None: {dict(config)!r}"
        ) from None


def _as_text(value: int | str | datetime | timedelta | None) -> str | None:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():f} seconds"
    return None if value is None else str(value)


def _filters(
    topic: str | None,
    group_id: str | None,
    error: str | None,
    since: datetime | None,
    until: datetime | None,
    most: int,
) -> tuple[Any, ...]:
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most < 2**31:
        raise errors.InvalidRequestError(f"most must be 1 to {2**31 - 1:,}, not {most!r}")
    for name, text in (("topic", topic), ("group_id", group_id), ("error", error)):
        if text is not None and not isinstance(text, str):
            raise errors.InvalidRequestError(f"{name} is {text!r}: give a string")
    for name, moment in (("since", since), ("until", until)):
        if moment is None:
            continue
        if not isinstance(moment, datetime):
            raise errors.InvalidRequestError(f"{name} is {moment!r}: give a datetime with a time zone")
        if moment.utcoffset() is None:
            raise errors.InvalidRequestError(
                f"{name} is {moment!r}, without a time zone: give one, as in datetime.now(UTC)"
            )
    return topic, group_id, error, _as_text(since), _as_text(until), most


def _dead_letter(row: Any) -> DeadLetter:
    *fields, value, header_keys, header_values, codec = row
    if codec is not None and value is not None:
        with suppress(errors.CorruptRecordError, errors.UnsupportedCompressionTypeError):  # it may have failed for that
            value, codec = decompress(codec, value, _MOST_BYTES), None
    headers = () if header_keys is None else tuple(zip(header_keys, header_values, strict=True))
    return DeadLetter._make([*fields, value, headers, codec])
