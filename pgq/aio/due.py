"""When a consumer sees to delayed records: with or without the service, whoever reads appends what is due."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pgq import errors
from pgq.core import statements
from pgq.drivers.tasks import logger

_EVERY_S = 1.0
"""How often one without a group looks; a member's heartbeat says when to."""
_MOST, _AGAIN_MS = 500, 100
_LAST_S, _SAY_S = 30.0, 60.0
"""Where that fails: the longest wait before it is tried again, and how often it is logged."""


class AsyncDueRecords:
    """Appends delayed records that are due, of whatever topic.

    Args:
        fetch: runs a statement and returns its rows.
    """

    def __init__(self, fetch: Callable[..., Any]) -> None:
        self._fetch = fetch
        self.alone = True
        """Whether no heartbeat says when the next is due."""
        self.at = 0.0
        """When to deliver next: monotonic."""
        self._again_s = 0.0
        """For how long it waits after it has failed; 0 if it has not."""
        self._not_before = self._said_at = float("-inf")

    def expect(self, due_at: float) -> None:
        """Be there when a record is due that has just been delayed."""
        self.at = max(min(self.at, due_at), self._not_before)

    def heed(self, next_due_ms: int | None) -> None:
        """Take up when the next record is due, as the server has just said; None: none waits."""
        wait_s = float("inf") if next_due_ms is None else next_due_ms / 1000
        if self.alone:
            wait_s = min(wait_s, _EVERY_S)
        self.at = max(time.monotonic() + wait_s, self._not_before)

    async def deliver(self) -> None:
        """Append what is due. What fails is logged, unless it is the server that is away: no reason not to read."""
        self.at = time.monotonic() + _EVERY_S
        try:
            rows = await self._fetch(statements.DELIVER_DUE, _MOST)
        except (errors.BrokerNotAvailableError, errors.RequestTimedOutError, errors.NotLeaderError):
            raise
        except errors.PgqError as error:
            now = time.monotonic()
            self._again_s = min(2 * self._again_s or _EVERY_S, _LAST_S)
            self.at = self._not_before = now + self._again_s
            if now - self._said_at >= _SAY_S:
                self._said_at = now
                logger.warning("delayed records cannot be delivered, tries again: %s", error)
        else:
            self._again_s, self._not_before = 0.0, float("-inf")
            delivered, next_due_ms = rows[0]
            if not delivered and next_due_ms is not None:
                # what is due is being cancelled, or delivered by others
                next_due_ms = max(next_due_ms, _AGAIN_MS)
            self.heed(next_due_ms)
