"""A consumer's place in its group: the statements of joining, claiming, committing and leaving, and what they returned.

Which calls are made when is the consumer's business. Every statement but a commit runs on the session that joined, or
not at all: a new one joins anew. A claim that an interrupted call has left behind, so that nobody knows of it, is given
back by the next call of `keep`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from pgq import errors
from pgq.core import statements
from pgq.core.assignors import assign
from pgq.core.positions import PartitionState
from pgq.drivers.tasks import logger
from pgq.types import OffsetAndMetadata, TopicPartition

_STUCK_EVERY_S = 3.0
"""How often one looks for members that the server cannot end by itself, and counts one's own claims."""


class Claim(NamedTuple):
    """A partition that is this member's."""

    partition_id: int
    epoch: int


class Found(NamedTuple):
    """What comes with a claim."""

    state: PartitionState
    committed: int | None
    added: bool
    """Whether the topic was given the partition when the group read it already."""


class AsyncMembership:
    """One member of a group.

    Args:
        run: runs a statement on a session, if that is still the consumer's; None for whichever is. Returns the session
            and the rows.
    """

    def __init__(
        self,
        run: Callable[..., Any],
        *,
        group_id: str,
        strategy: str,
        session_timeout_ms: int,
        instance_id: str | None,
        client_id: str,
    ) -> None:
        self._run = run
        self._group_id = group_id
        self._strategy = strategy
        self._session_timeout_ms = session_timeout_ms
        self._instance_id = instance_id
        self._client_id = client_id
        self.member_id: int | None = None
        """None: not joined, or no longer; then `reason` says why."""
        self.reason = "it has not joined yet"
        self.channel = ""
        self.topics: list[str] = []
        """What the group was told that this member reads."""
        self.stale = True
        """Whether the group has changed since the assignment was worked out."""
        self.unsure = False
        """Whether the session may hold claims that are not among `claims`."""
        self.claims: dict[TopicPartition, Claim] = {}
        self.target: dict[TopicPartition, tuple[int, int]] = {}
        """Partitions that should be this member's -> topic_id, partition_id."""
        self.next_due_ms: int | None = None
        """How long after the last heartbeat a delayed record was due; None if none waited."""
        self.fenced = False
        self._session: Any = None
        self._left_over: int | None = None
        self._last_id: int | None = None
        """As whom to join again: a member whose session was lost keeps its name, and so its partitions."""
        self._commits_as: int | None = None
        """Whose claims `claims` are. Lost ones count until somebody else claims: the server knows."""
        self._joined = 0
        """How often it has joined. An answer to an earlier membership is not this one's, though it has the same id."""
        self._changes = 0
        self._generation = 0
        self._names: set[str] = set()
        self._stuck_at = 0.0

    @property
    def static(self) -> bool:
        """Whether its place is kept for a while when it goes."""
        return self._instance_id is not None

    async def join(self, topics: Iterable[str]) -> None:
        """Become a member.

        Raises:
            InconsistentGroupProtocolError: the others share out by another strategy.
            FencedInstanceIdError: another member has taken this static one's place.
        """
        told = sorted(topics)
        arguments = (self._group_id, told, self._strategy, self._session_timeout_ms, self._instance_id, self._client_id)
        try:
            session, rows = await self._run(None, statements.JOIN_GROUP, *arguments, self._last_id)
        except errors.FencedInstanceIdError:
            self.fenced = True
            raise
        member_id, self._generation, self.channel = rows[0]
        self._joined += 1
        self._session, self.topics = session, told
        self._commits_as = self._last_id = self.member_id = member_id
        self.claims.clear()
        self.target.clear()
        self.stale = True
        self.unsure = False

    def lose(self, reason: str, *, with_session: bool = False, commits_on: bool = False) -> None:
        """Be no member any more, without a word to the server yet."""
        if self.member_id is not None:
            self._left_over, self.member_id = self.member_id, None
            self.reason = reason
            if not with_session:
                if not commits_on:
                    self._commits_as = None
                if not self.static:
                    self._last_id = None  # it leaves: a late word of that is not to be taken for the next one's
        if with_session:
            self._left_over = None  # its locks went with it
        self.stale = True

    async def let_go(self) -> None:
        """Give up what the session still holds of an earlier membership."""
        left_over = self._left_over
        if left_over is not None:
            await self._run(self._session, statements.LEAVE_GROUP, left_over)
            self._left_over = None

    async def leave(self, reason: str, *, commits_on: bool = False) -> None:
        """Be no member any more; the others take over at once.

        Args:
            commits_on: whether to commit, as after a lost session, for what nobody has claimed since.
        """
        self.lose(reason, commits_on=commits_on)
        await self.let_go()

    async def beat(self) -> None:
        """Say that this member lives; take note of changes."""
        member_id = self.member_id
        if member_id is None:
            return
        thoroughly = time.monotonic() - self._stuck_at > _STUCK_EVERY_S
        joined, changes, held = self._joined, self._changes, len(self.claims)
        _, rows = await self._run(self._session, statements.HEARTBEAT, member_id, thoroughly)
        if self.member_id is None or self._joined != joined:
            return
        generation, claims, self.next_due_ms = rows[0]
        if generation is None:
            self._was_removed()
        elif claims is not None and claims < held and changes == self._changes:
            self.lose("its session has lost its locks")
        elif generation != self._generation:
            self.stale = True
        if thoroughly:
            self._stuck_at = time.monotonic()
            await self._run(self._session, statements.END_STUCK_MEMBERS, member_id)

    async def change_topics(self, topics: Iterable[str]) -> None:
        """Tell the group what else this member reads."""
        told = sorted(topics)
        await self._run(self._session, statements.CHANGE_SUBSCRIPTION, self.member_id, told)
        self.topics = told
        self.stale = True

    async def work_out(self) -> None:
        """See who is in the group, and which partitions should be this member's."""
        member_id, joined = self.member_id, self._joined
        _, rows = await self._run(self._session, statements.GROUP_ASSIGNMENT, member_id)
        if self.member_id is None or self._joined != joined:
            return
        generation, strategy, members, topics = rows[0]
        if generation is None:
            self._was_removed()
            return
        known = json.loads(topics or "{}")
        listed = json.loads(members)
        names = {name: read for _, name, read in listed}
        mine = next(name for number, name, _ in listed if number == member_id)
        shares = assign(strategy, names, {topic: len(ids) for topic, (_, ids) in known.items()})
        self._say_who_changed(generation, set(names))
        self._generation = generation
        self.target = {tp: (known[tp.topic][0], known[tp.topic][1][tp.partition]) for tp in shares[mine]}
        self.stale = False

    def surplus(self) -> set[TopicPartition]:
        """Return what is claimed and should be another's, or is of a topic that was deleted, and perhaps made anew."""
        return {tp for tp, c in self.claims.items() if tp not in self.target or self.target[tp][1] != c.partition_id}

    async def claim(self, partitions: Iterable[TopicPartition]) -> list[Found]:
        """Claim these, as far as they are free."""
        wanted = sorted(partitions)
        topics, numbers = [tp.topic for tp in wanted], [tp.partition for tp in wanted]
        arguments = (self.member_id, self._generation, topics, numbers)
        self.unsure = True
        self._changes += 1
        _, rows = await self._run(self._session, statements.CLAIM_PARTITIONS, *arguments)
        result = []
        for topic, partition, epoch, offset, added in rows:
            tp = TopicPartition(topic, partition)
            topic_id, partition_id = self.target[tp]
            self.claims[tp] = Claim(partition_id, epoch)
            result.append(Found(PartitionState(tp, topic_id, partition_id), offset, added))
        self._changes += 1
        self.unsure = False
        return result

    async def keep(self, partitions: Collection[TopicPartition]) -> None:
        """Give up all claims but these, for others."""
        topics, numbers = [tp.topic for tp in partitions], [tp.partition for tp in partitions]
        self.unsure = True
        self._changes += 1
        await self._run(self._session, statements.KEEP_PARTITIONS, self.member_id, topics, numbers)
        self.claims = {tp: claim for tp, claim in self.claims.items() if tp in partitions}
        self._changes += 1
        self.unsure = False

    def commit_arguments(self, offsets: dict[TopicPartition, OffsetAndMetadata]) -> tuple[Any, ...]:
        """Return the arguments of COMMIT_OFFSETS.

        Raises:
            CommitFailedError: partitions are not, or no longer, this member's.
        """
        lost = sorted(tp for tp in offsets if tp not in self.claims or self._commits_as is None)
        if lost:
            names = ", ".join(f"{tp.topic}-{tp.partition}" for tp in lost)
            why = f": {self.reason}" if self._commits_as is None else ""
            raise errors.CommitFailedError(
                f"not committed: {names} is not this member's of group {self._group_id!r} any more{why}. Go on polling:"
                " whoever has it reads on from the offset committed before",
                lost,
            )
        return (*arguments(self._group_id, offsets), self._commits_as, [self.claims[tp].epoch for tp in offsets])

    def _was_removed(self) -> None:
        self.fenced = self._instance_id is not None
        self.lose("the group has removed it")

    def _say_who_changed(self, generation: int, names: set[str]) -> None:
        changes = [f"{name} joined" for name in sorted(names - self._names)]
        changes += [f"{name} left" for name in sorted(self._names - names)]
        if self._names and changes:
            logger.info("group %s, generation %d: %s", self._group_id, generation, ", ".join(changes))
        self._names = names


def arguments(group_id: str, offsets: dict[TopicPartition, OffsetAndMetadata]) -> tuple[Any, ...]:
    """Return the arguments of COMMIT_OFFSETS for somebody who is no member, without the last two."""
    return (
        group_id,
        [tp.topic for tp in offsets],
        [tp.partition for tp in offsets],
        [o.offset for o in offsets.values()],
        [o.metadata for o in offsets.values()],
    )
