"""How the members of a group share out partitions. Pure: every member works it out alike, from the same view.

Sources: Kafka's RangeAssignor and RoundRobinAssignor; rendezvous hashing, Thaler and Ravishankar 1998.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from hashlib import blake2b
from itertools import count

from pgq import errors
from pgq.types import TopicPartition

Subscriptions = Mapping[str, Collection[str]]
"""A member's name -> its topics."""
Assignments = dict[str, list[TopicPartition]]


def assign(strategy: str, members: Subscriptions, topics: Mapping[str, int]) -> Assignments:
    """Return who gets which partitions; those of topics that nobody subscribes to are left out.

    Args:
        strategy: "range", "roundrobin" or "sticky".
        members: names and topics. The outcome depends on the names, not on their order.
        topics: numbers of partitions; a topic that is missing has none.

    Raises:
        InvalidRequestError: there is no such strategy.
    """
    check_strategy(strategy)
    return _ASSIGNORS[strategy](members, topics)


def check_strategy(strategy: str) -> None:
    """Refuse what is none."""
    if not isinstance(strategy, str) or strategy not in _ASSIGNORS:
        raise errors.InvalidRequestError(
            f"partition_assignment_strategy must be one of {', '.join(_ASSIGNORS)}, not {strategy!r}"
        )


def _range(members: Subscriptions, topics: Mapping[str, int]) -> Assignments:
    """Give each member a run of each topic's partitions: equal numbers of two topics go to the same member."""
    result: Assignments = {name: [] for name in members}
    for topic in sorted(topics):
        names = sorted(name for name in members if topic in members[name])
        if not names:
            continue
        each, more = divmod(topics[topic], len(names))
        partitions = count()
        for i, name in enumerate(names):
            result[name] += [TopicPartition(topic, next(partitions)) for _ in range(each + (i < more))]
    return result


def _round_robin(members: Subscriptions, topics: Mapping[str, int]) -> Assignments:
    """Deal out the partitions of all topics one by one."""
    result: Assignments = {name: [] for name in members}
    names = sorted(members)
    turn = 0
    for topic in sorted(topics):
        if not any(topic in members[name] for name in names):
            continue
        for partition in range(topics[topic]):
            while topic not in members[names[turn % len(names)]]:
                turn += 1
            result[names[turn % len(names)]].append(TopicPartition(topic, partition))
            turn += 1
    return result


def _sticky(members: Subscriptions, topics: Mapping[str, int]) -> Assignments:
    """Give partitions to those who like them best, as far as they have room; few move when members come and go."""
    result: Assignments = {name: [] for name in members}
    left = {TopicPartition(topic, partition) for topic in topics for partition in range(topics[topic])}
    each, more = divmod(len(left), max(1, len(members)))
    wishes = sorted(
        ((_liking(name, tp), tp, name) for name in members for tp in left if tp.topic in members[name]), reverse=True
    )
    for _, tp, name in wishes:
        room = each - len(result[name])
        if tp in left and (room > 0 or (room == 0 and more > 0)):
            more -= room == 0
            left.remove(tp)
            result[name].append(tp)
    for _, tp, name in wishes:  # where not everybody reads everything
        if tp in left:
            left.remove(tp)
            result[name].append(tp)
    _level(result, members)
    return result


def _level(result: Assignments, members: Subscriptions) -> None:
    """Move partitions from members with many to members with two fewer or less, those first that mind it least."""
    while True:
        fullest = sorted(result, key=lambda name: (-len(result[name]), name))
        for giver in fullest:
            takers = [name for name in result if len(result[name]) + 1 < len(result[giver])]
            moves = [
                (_liking(taker, tp) - _liking(giver, tp), tp, taker)
                for taker in takers
                for tp in result[giver]
                if tp.topic in members[taker]
            ]
            if moves:
                _, tp, taker = max(moves)
                result[giver].remove(tp)
                result[taker].append(tp)
                break
        else:
            return


@lru_cache(maxsize=200_000)
def _liking(name: str, tp: TopicPartition) -> int:
    return int.from_bytes(blake2b(f"{tp.partition}/{tp.topic}/{name}".encode(), digest_size=6).digest(), "big")


_ASSIGNORS: dict[str, Callable[[Subscriptions, Mapping[str, int]], Assignments]] = {
    "range": _range,
    "roundrobin": _round_robin,
    "sticky": _sticky,
}
