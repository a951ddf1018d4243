"""Every assignor gives each partition to one member that reads its topic, evenly, and moves little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgq import errors
from pgq.core.assignors import Assignments, assign
from pgq.types import TopicPartition

STRATEGIES = ("range", "roundrobin", "sticky")
TOPICS = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 12), min_size=1)
NAMES = st.text("0123456789", min_size=1, max_size=6)
MEMBERS = st.dictionaries(NAMES, st.sets(st.sampled_from(["a", "b", "c", "d", "e"])), min_size=1, max_size=7)


def owners(assignments: Assignments) -> dict[TopicPartition, str]:
    found = [(tp, name) for name, partitions in assignments.items() for tp in partitions]
    assert len(found) == len(dict(found)), "a partition was given twice"
    return dict(found)


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(members=MEMBERS, topics=TOPICS)
def test_every_partition_that_somebody_reads_has_one_owner_who_reads_it(
    strategy: str, members: dict[str, set[str]], topics: dict[str, int]
) -> None:
    found = owners(assign(strategy, members, topics))
    wanted = {
        TopicPartition(t, p) for t, n in topics.items() for p in range(n) if any(t in m for m in members.values())
    }
    assert found.keys() == wanted
    assert all(tp.topic in members[name] for tp, name in found.items())


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(members=MEMBERS, topics=TOPICS, order=st.randoms())
def test_the_order_of_members_and_topics_does_not_matter(
    strategy: str, members: dict[str, set[str]], topics: dict[str, int], order: object
) -> None:
    def shuffled(mapping: dict) -> dict:  # type: ignore[type-arg]
        items = list(mapping.items())
        order.shuffle(items)  # type: ignore[attr-defined]
        return dict(items)

    assert owners(assign(strategy, shuffled(members), shuffled(topics))) == owners(assign(strategy, members, topics))


@given(names=st.sets(NAMES, min_size=1, max_size=9), topics=TOPICS)
def test_members_that_read_the_same_differ_by_one_at_most(names: set[str], topics: dict[str, int]) -> None:
    for strategy in ("roundrobin", "sticky"):
        sizes = [len(part) for part in assign(strategy, {name: set("abcd") for name in names}, topics).values()]
        assert max(sizes) - min(sizes) <= 1
    for topic, partitions in topics.items():
        sizes = [len(part) for part in assign("range", {n: [topic] for n in names}, {topic: partitions}).values()]
        assert max(sizes) - min(sizes) <= 1


@given(members=MEMBERS, topics=TOPICS)
def test_sticky_leaves_nothing_that_a_move_would_level(members: dict[str, set[str]], topics: dict[str, int]) -> None:
    found = assign("sticky", members, topics)
    for giver, partitions in found.items():
        for tp in partitions:
            for taker in members:
                if tp.topic in members[taker]:
                    assert len(found[taker]) + 1 >= len(partitions), (giver, taker, tp)


def test_range_gives_equal_numbers_of_two_topics_to_the_same_member() -> None:
    found = assign("range", {"m1": ["a", "b"], "m2": ["a", "b"]}, {"a": 3, "b": 3})
    assert found["m1"] == [TopicPartition(t, p) for t in "ab" for p in (0, 1)]
    assert found["m2"] == [TopicPartition(t, 2) for t in "ab"]


@given(seed=st.integers(0, 2**40))
def test_a_join_moves_few_partitions_if_sticky(seed: int) -> None:
    names = [str(seed * 7919 + i * 104729) for i in range(11)]
    before = owners(assign("sticky", {name: ["t"] for name in names[:10]}, {"t": 100}))
    after = owners(assign("sticky", {name: ["t"] for name in names}, {"t": 100}))
    moved = sum(before[tp] != after[tp] for tp in before)
    assert 9 <= moved <= 25  # 9 must move; 14 is usual
    back = owners(assign("sticky", {name: ["t"] for name in names[:10]}, {"t": 100}))
    assert back == before


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError, match="range, roundrobin, sticky"):
        assign("fair", {}, {})
