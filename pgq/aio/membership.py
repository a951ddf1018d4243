"""A consumer's place in its group: the statements of joining, claiming, committing and leaving, and what they returned.

Which calls are made when is the consumer's business. Nothing here survives the connection: a new one joins anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from pgq import errors
from pgq.core import statements
from pgq.core.assignors import assign
from pgq.core.positions import PartitionState
from pgq.drivers.tasks import logger
from pgq.types import OffsetAndMetadata, TopicPartition

_STUCK_EVERY_S = 3.0
"""How often one looks for members that the server cannot end by itself, and counts one's own claims."""


class AsyncMembership:
    """One member of a group."""

    def __init__(
        self,
        fetch: Callable[..., Any],
        *,
        group_id: str,
        strategy: str,
        session_timeout_ms: int,
        instance_id: str | None,
    ) -> None:
        self._fetch = fetch
        self._group_id = group_id
        self._strategy = strategy
        self._session_timeout_ms = session_timeout_ms
        self._instance_id = instance_id
        self.member_id: int | None = None
        """None: not joined, or no longer; then `reason` says why."""
        self.reason = "it has not joined yet"
        self.channel = ""
        self.stale = True
        """Whether the group has changed since the assignment was worked out."""
        self.epochs: dict[TopicPartition, int] = {}
        """Claimed partitions."""
        self._names: set[str] = set()
        self.target: dict[TopicPartition, tuple[int, int]] = {}
        """Partitions that should be this member's -> topic_id, partition_id."""
        self.fenced = False
        self._left_over: int | None = None
        self._commits_as: int | None = None
        """Whose claims `epochs` are. A lost session's count until somebody else claims: the server knows."""
        self._changes = 0
        self._generation = 0
        self._stuck_at = 0.0

    @property
    def static(self) -> bool:
        """Whether its place is kept for a while when it goes."""
        return self._instance_id is not None

    async def join(self, topics: Iterable[str], client_id: str) -> None:
        """Become a member.

        Raises:
            InconsistentGroupProtocolError: the others share out by another strategy.
        """
        rows = await self._fetch(
            statements.JOIN_GROUP,
            self._group_id,
            sorted(topics),
            self._strategy,
            self._session_timeout_ms,
            self._instance_id,
            client_id,
        )
        self.member_id, self._generation, self.channel = rows[0]
        self._commits_as = self.member_id
        self.stale = True

    def lose(self, reason: str, *, with_session: bool = False) -> None:
        """Be no member any more, without a word to the server yet."""
        if self.member_id is not None:
            self._left_over, self.member_id = self.member_id, None
            self.reason = reason
            if not with_session:
                self._commits_as = None
        if with_session:
            self._left_over = None  # its locks went with it
        self.stale = True

    async def let_go(self) -> None:
        """Give up what the session still holds of an earlier membership."""
        if self._left_over is not None:
            await self._fetch(statements.LEAVE_GROUP, self._left_over)
            self._left_over = None

    async def beat(self) -> None:
        """Say that this member lives; take note of changes."""
        member_id = self.member_id
        if member_id is None:
            return
        thoroughly = time.monotonic() - self._stuck_at > _STUCK_EVERY_S
        changes, held = self._changes, len(self.epochs)
        generation, claims = (await self._fetch(statements.HEARTBEAT, member_id, thoroughly))[0]
        if self.member_id != member_id:
            return
        if generation is None:
            self.fenced = self._instance_id is not None
            self.lose("the group has removed it")
        elif claims is not None and claims < held and changes == self._changes:
            self.lose("its session has lost its locks")
        elif generation != self._generation:
            self.stale = True
        if thoroughly:
            self._stuck_at = time.monotonic()
            await self._fetch(statements.END_STUCK_MEMBERS, member_id)

    async def work_out(self) -> None:
        """See who is in the group, and which partitions should be this member's."""
        self.stale = False
        generation, strategy, members, topics = (await self._fetch(statements.GROUP_ASSIGNMENT, self.member_id))[0] or [
            None
        ] * 4
        if generation is None:
            self.fenced = self._instance_id is not None
            self.lose("the group has removed it")
            return
        known = json.loads(topics or "{}")
        names = {name: read for _, name, read in json.loads(members)}
        mine = {member_id: name for member_id, name, _ in json.loads(members)}[self.member_id]
        shares = assign(strategy, names, {topic: len(ids) for topic, (_, ids) in known.items()})
        self._generation = generation
        joined, left = sorted(names.keys() - self._names), sorted(self._names - names.keys())
        if self._names and (joined or left):
            changes = [f"{name} joined" for name in joined] + [f"{name} left" for name in left]
            logger.info("group %s, generation %d: %s", self._group_id, generation, ", ".join(changes))
        self._names = set(names)
        self.target = {tp: (known[tp.topic][0], known[tp.topic][1][tp.partition]) for tp in shares[mine]}

    def surplus(self) -> set[TopicPartition]:
        """Return what is claimed and should be another's."""
        return self.epochs.keys() - self.target.keys()

    def missing(self) -> set[TopicPartition]:
        """Return what should be claimed and is not yet: its owner is finishing."""
        return self.target.keys() - self.epochs.keys()

    async def claim(self) -> list[tuple[PartitionState, int | None, bool]]:
        """Claim what is missing, as far as it is free.

        Returns:
            New states; the committed offsets, if any; whether the topic was given the partition under the group's eyes.
        """
        wanted = sorted(self.missing())
        self._changes += 1
        rows = await self._fetch(
            statements.CLAIM_PARTITIONS,
            self.member_id,
            self._generation,
            [tp.topic for tp in wanted],
            [tp.partition for tp in wanted],
        )
        result = []
        for topic, partition, epoch, offset, added in rows:
            tp = TopicPartition(topic, partition)
            if tp in self.target:
                self.epochs[tp] = epoch
                result.append((PartitionState(tp, *self.target[tp]), offset, added))
        return result

    async def release(self, partitions: set[TopicPartition]) -> None:
        """Give partitions up, for others to claim."""
        ordered = sorted(partitions)
        self._changes += 1
        await self._fetch(
            statements.RELEASE_PARTITIONS,
            self.member_id,
            [tp.topic for tp in ordered],
            [tp.partition for tp in ordered],
        )
        for tp in partitions:  # only now: who was interrupted has to do it again
            self.epochs.pop(tp, None)

    async def leave(self, reason: str) -> None:
        """Be no member any more; the others take over at once."""
        self.lose(reason)
        await self.let_go()

    def commit_arguments(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> tuple[Any, ...]:
        """Return the arguments of COMMIT_OFFSETS.

        Raises:
            CommitFailedError: partitions are not, or no longer, this member's.
        """
        lost = sorted(tp for tp in offsets if tp not in self.epochs or self._commits_as is None)
        if lost:
            names = ", ".join(f"{tp.topic}-{tp.partition}" for tp in lost)
            why = f": {self.reason}" if self._commits_as is None else ""
            raise errors.CommitFailedError(
                f"not committed: {names} is not this member's of group {self._group_id!r} any more{why}. Go on polling:"
                " whoever has it reads on from the offset committed before"
            )
        return (*arguments(self._group_id, offsets), self._commits_as, [self.epochs[tp] for tp in offsets])


def arguments(group_id: str, offsets: dict[TopicPartition, OffsetAndMetadata]) -> tuple[Any, ...]:
    """Return the arguments of COMMIT_OFFSETS for somebody who is no member, without the last two."""
    return (
        group_id,
        [tp.topic for tp in offsets],
        [tp.partition for tp in offsets],
        [o.offset for o in offsets.values()],
        [o.metadata for o in offsets.values()],
    )
