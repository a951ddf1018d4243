"""Topics: create, delete, describe, list, configure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pgq.aio.client import AsyncClient
from pgq.core import statements
from pgq.types import TopicDescription, TopicPartition


class AsyncAdmin(AsyncClient):
    """Manages topics. Every call is a transaction of its own.

    Args:
        dsn: libpq connection string or URL; PGQ_DSN if None.
    """

    async def create_topic(
        self, name: str, partitions: int = 1, config: Mapping[str, int | None] | None = None
    ) -> TopicDescription:
        """Create a topic of 1 to 50 partitions.

        Raises:
            TopicAlreadyExistsError, InvalidTopicError, InvalidPartitionsError, InvalidConfigError
        """
        return (await self._describe(statements.CREATE_TOPIC, name, partitions, json.dumps(dict(config or {}))))[0]

    async def delete_topic(self, name: str) -> None:
        """Delete a topic, its records and the offsets committed for it. Waits for whoever uses it.

        Raises:
            UnknownTopicError
        """
        await (await self._connection()).fetch(statements.DELETE_TOPIC, name)

    async def describe_topic(self, name: str) -> TopicDescription:
        """Return a topic's description.

        Raises:
            UnknownTopicError
        """
        return (await self._describe(statements.DESCRIBE_TOPIC, name))[0]

    async def list_topics(self) -> list[TopicDescription]:
        """Return the descriptions of all topics, by name."""
        return await self._describe(statements.LIST_TOPICS)

    async def alter_topic_config(self, name: str, config: Mapping[str, int | None]) -> TopicDescription:
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
