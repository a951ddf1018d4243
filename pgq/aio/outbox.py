"""The outbox of a connection: a block of a transaction, at whose end what was sent in it is appended."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Self

from pgq import errors
from pgq.core.outbox import BaseOutbox, OutboxDelivery, calls
from pgq.drivers import asyncpg as driver
from pgq.types import Serializer


class AsyncOutbox(BaseOutbox):
    """Collects records in a block of a transaction and appends them at its end: `async with outbox:`.

    The block is a transaction of the connection, or a savepoint where one has begun: its changes and its records are
    kept together or undone together. Blocks may be nested, each a savepoint; records are appended at the end of the
    outermost one. `pgq.outbox` makes one.
    """

    def __init__(
        self,
        connection: Any,
        *,
        key_serializer: Serializer | str | type | None = None,
        value_serializer: Serializer | str | type | None = None,
        partitioner: str = "murmur2",
    ) -> None:
        super().__init__(
            key_serializer=key_serializer,
            value_serializer=value_serializer,
            partitioner=partitioner,
            clock_ms=lambda: time.time_ns() // 1_000_000,
        )
        self._connection = driver.wrap(connection)
        self._blocks: list[AbstractAsyncContextManager[None]] = []
        self._collected: list[tuple[OutboxDelivery[Any], Callable[[], bool]]] = []

    async def __aenter__(self) -> Self:
        block = self._block()
        await block.__aenter__()
        self._blocks.append(block)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._blocks.pop().__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _block(self) -> AsyncIterator[None]:
        before = len(self._collected)
        ended = kept = False
        try:
            async with self._connection.transaction():
                yield
                if not self._blocks:
                    await self._append()
                ended = True
            kept = ended  # a driver's block may swallow what rolled it back, as psycopg's does psycopg.Rollback
        finally:
            if not kept:
                for delivery, _ in self._collected[before:]:
                    delivery.drop()
                del self._collected[before:]

    def _add(self, delivery: OutboxDelivery[Any]) -> None:
        if not self._blocks:
            raise errors.IllegalStateError(
                "no block of the outbox is open: send in `async with pgq.outbox(connection) as outbox:`"
            )
        self._collected.append((delivery, self._connection.mark()))

    async def _append(self) -> None:
        """Append what was collected, but for what was sent in a savepoint that was rolled back."""
        held = []
        for delivery, holds in self._collected:
            if holds():
                held.append(delivery)
            else:
                delivery.drop()
        for statement, arguments, settle in calls(held):
            settle(await self._connection.fetch(statement, *arguments))
        self._collected.clear()
