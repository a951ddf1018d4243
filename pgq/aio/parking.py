"""Parking: a consumer that has read all has whoever appends next notify it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgq import errors
from pgq.core import statements
from pgq.drivers.tasks import logger


class AsyncParking:
    """Whether one session is parked, and at which topics. Channels of notifications are the consumer's business.

    Args:
        fetch: runs a statement and returns its rows.
    """

    def __init__(self, fetch: Callable[..., Any]) -> None:
        self._fetch = fetch
        self.held: list[int] | None = None
        """The topics whose lock is held, if it is parked; another's lock serves as well."""
        self.topic_ids: list[int] = []
        """Where it is parked."""
        self._interrupted = False
        """Whether the session may hold locks that nobody knows of."""

    @property
    def parked(self) -> bool:
        """Whether what is appended notifies."""
        return self.held is not None

    @property
    def relies_on_others(self) -> bool:
        """Whether the lock of a topic is another's, who may go."""
        return self.held is not None and len(self.held) < len(self.topic_ids)

    def forget(self) -> None:
        """Know that the locks went with the session."""
        self.held = None
        self._interrupted = False

    async def park(self, topic_ids: list[int]) -> bool:
        """Have appends to these topics notify; return False if some are in flight. Look at the log once more after."""
        interrupted, self._interrupted = self._interrupted, True
        held, busy = (await self._fetch(statements.PARK, topic_ids, interrupted))[0]
        self._interrupted = False
        if not busy:
            self.held, self.topic_ids = list(held), topic_ids
        return not busy

    async def unpark(self, *, notified: bool = False) -> None:
        """Have appends not notify any more."""
        held, self.held = self.held, None
        if held:
            interrupted, self._interrupted = self._interrupted, True
            await self._fetch(statements.UNPARK, held, notified)
            self._interrupted = interrupted

    async def unpark_quietly(self) -> None:
        """The same, for whom there is more to do if it fails: the lock went with the session then."""
        try:
            await self.unpark()
        except errors.PgqError as error:
            logger.debug("unpark: %s", error)
