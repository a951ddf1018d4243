"""The retry topics of the topics that a group reads."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pgq import errors
from pgq.core import statements
from pgq.drivers.tasks import logger


class AsyncRetryTopics:
    """Makes them, and knows their names.

    Args:
        fetch: runs a statement and returns its rows.
    """

    def __init__(self, fetch: Callable[..., Any], group_id: str | None) -> None:
        self._fetch = fetch
        self._group_id = group_id
        self._made: dict[str, list[str]] = {}
        """Topics -> their retry topics, as far as they are known to be there."""
        self.impossible: set[str] = set()
        """Topics that a pattern matches and that can have none."""

    async def make(self, topics: Collection[str], *, skip_impossible: bool) -> frozenset[str]:
        """See to it that the topics have retry topics and dead letter topics; return the names of the former.

        Raises:
            InvalidTopicError: a topic can have none, and is not to be skipped.
        """
        for topic in sorted(set(topics) - self._made.keys() - self.impossible):
            try:
                rows = await self._fetch(statements.CREATE_RETRY_TOPICS, self._group_id, [topic])
            except errors.UnknownTopicError:
                continue  # deleted meanwhile
            except errors.InvalidTopicError as error:
                if not skip_impossible:
                    raise
                self.impossible.add(topic)
                logger.warning(
                    "group %s: does not read %s, which the pattern matches: %s", self._group_id, topic, error
                )
                continue
            self._made[topic] = [name for (name,) in rows]
        # those that have none are the group's retry topics themselves
        return frozenset(name for topic in topics if topic in self._made for name in self._made[topic] or [topic])

    def forget(self) -> None:
        """Have them made again, next time: some were deleted."""
        self._made.clear()
