"""Topics: create, delete, describe, list, configure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from pgq import errors
from pgq.aio.client import AsyncClient
from pgq.core import statements
from pgq.drivers.tasks import sleep
from pgq.types import ClusterDescription, ServerDescription, TopicDescription, TopicPartition

Progress = Callable[[int, int], object]
"""Called with how much is done, and how much there is to do."""

_ONE_TRANSACTION = 25
"""Partitions that are made in one transaction: what a step of pgq.create_topic_step makes."""
_RETRY_S = 0.1


class AsyncAdmin(AsyncClient):
    """Manages topics, and describes the cluster.

    Large topics are made, grown and deleted in steps, a transaction each, so that nobody else is hurt; a call that was
    interrupted is finished by the same call again. Every other call is one transaction.

    Args:
        dsn: libpq connection string or URL; PGQ_DSN if None.
    """

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
        settings = json.dumps(dict(config or {}))
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
        return (await self._describe(statements.ALTER_TOPIC_CONFIG, name, json.dumps(dict(config))))[0]

    async def delete_records(self, offsets: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Move log starts up to these offsets (-1: the high watermark); return the log starts.

        Raises:
            UnknownTopicError, UnknownPartitionError, OffsetOutOfRangeError
        """
        connection = await self._connection()
        result = {}
        for tp, offset in offsets.items():
            rows = await connection.fetch(statements.DELETE_RECORDS, tp[0], tp[1], offset)
            result[TopicPartition(*tp)] = rows[0][0]
        return result

    async def _describe(self, statement: str, *args: Any) -> list[TopicDescription]:
        rows = await (await self._connection()).fetch(statement, *args)
        return [TopicDescription(r[0], r[1], r[2], json.loads(r[3])) for r in rows]
