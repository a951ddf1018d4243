"""What a test asks of a log: the records of a topic, and whether a group has processed them.

Both wait for what they look for, no longer, and fail with a sentence that says how far it came. The async twins run the
same in a thread, so that the application under test goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import time

from pgq import errors
from pgq.sync.admin import Admin
from pgq.sync.consumer import Consumer
from pgq.types import ConsumerRecord, Deserializer, TopicPartition

_LOOK_S = 0.005
_LOOKS = 10
"""How often a reader looks for a record, at most: after three looks it steps over a gap."""


def drain(
    topic: str,
    *,
    group_id: str | None = None,
    count: int | None = None,
    timeout_s: float = 5,
    dsn: str | None = None,
    key_deserializer: Deserializer | str | type | None = None,
    value_deserializer: Deserializer | str | type | None = None,
) -> list[ConsumerRecord]:
    """Return all records of a topic up to its high watermarks, partition by partition, in order.

    Records that were flushed, or whose transaction has been committed, are there; those of transactions that are open
    are not, nor what was committed after an open one's in the same partition.

    Args:
        group_id: begin at what this group has committed, and commit what is returned, so that the next call returns
            what came since. The group must have no members.
        count: wait until there are so many, and until the topic is there, as one that a worker makes for its dead
            letters. More are returned, too, so that a test sees them.
        timeout_s: how long to wait for these.
        dsn: libpq connection string or URL; PGQ_DSN if None.
        key_deserializer, value_deserializer: as of a consumer.

    Raises:
        AssertionError: fewer than `count` have come in time; then nothing is committed.
        UnknownTopicError: the topic does not exist; with `count`, not by then.
        UnknownMemberIdError: the group has members.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            partitions = _partitions(topic, dsn)
        except errors.UnknownTopicError:
            if not count or time.monotonic() >= deadline:
                raise
            time.sleep(_LOOK_S)
        else:
            break
    records: list[ConsumerRecord] = []
    with Consumer(
        dsn=dsn,
        group_id=group_id,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        key_deserializer=key_deserializer,
        value_deserializer=value_deserializer,
    ) as consumer:
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        while True:
            at_end = all(consumer.position(tp) >= end for tp, end in ends.items())
            if at_end and len(records) >= (count or 0):
                break
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                wanted = "all" if count is None else count
                raise AssertionError(
                    f"{len(records)} records of topic {topic!r} came within {timeout_s:g} s, not {wanted}:"
                    f" {_brief(records)}"
                )
            # where offsets were rolled back it takes some looks until the reader steps over them
            batches = consumer.getmany(timeout_ms=left_s * 1000 if at_end else 0)
            for batch in batches.values():
                records += batch
            if not batches and not at_end:
                time.sleep(_LOOK_S)
        if group_id is not None:
            consumer.commit()
    return _in_order(records)


def wait_until_consumed(group_id: str, topic: str, *, timeout_s: float = 5, dsn: str | None = None) -> None:
    """Return as soon as a group has committed all records of a topic up to its high watermarks: its lag is 0.

    Records sent by a producer count from when they are flushed: wait for their futures first, or flush.

    Args:
        timeout_s: how long to wait.
        dsn: libpq connection string or URL; PGQ_DSN if None.

    Raises:
        AssertionError: it has not in time; the message says how far it is, and which members the group has.
        UnknownTopicError: the topic does not exist.
    """
    deadline = time.monotonic() + timeout_s
    partitions = _partitions(topic, dsn)
    with Admin(dsn) as admin, Consumer(dsn=dsn, auto_offset_reset="earliest") as reader:
        reader.assign(partitions)
        while True:
            starts, ends = reader.beginning_offsets(partitions), reader.end_offsets(partitions)
            committed = admin.list_consumer_group_offsets(group_id, partitions)
            behind: list[str] = []
            for tp in partitions:
                position = max(starts[tp], committed[tp].offset if tp in committed else 0)
                if position < ends[tp] and _has_record(reader, tp, position, ends[tp]):
                    told = f"committed {committed[tp].offset}" if tp in committed else "committed nothing"
                    behind.append(f"partition {tp.partition}: {told}, high watermark {ends[tp]}")
            if not behind:
                return
            if time.monotonic() >= deadline:
                raise AssertionError(
                    f"group {group_id!r} has not consumed topic {topic!r} within {timeout_s:g} s: {'; '.join(behind)}."
                    f" {_members(admin, group_id)}"
                )
            time.sleep(_LOOK_S)


async def async_drain(
    topic: str,
    *,
    group_id: str | None = None,
    count: int | None = None,
    timeout_s: float = 5,
    dsn: str | None = None,
    key_deserializer: Deserializer | str | type | None = None,
    value_deserializer: Deserializer | str | type | None = None,
) -> list[ConsumerRecord]:
    """Return all records of a topic up to its high watermarks: `drain` in a thread."""
    return await asyncio.to_thread(
        drain,
        topic,
        group_id=group_id,
        count=count,
        timeout_s=timeout_s,
        dsn=dsn,
        key_deserializer=key_deserializer,
        value_deserializer=value_deserializer,
    )


async def async_wait_until_consumed(group_id: str, topic: str, *, timeout_s: float = 5, dsn: str | None = None) -> None:
    """Return as soon as a group has committed all records of a topic: `wait_until_consumed` in a thread."""
    await asyncio.to_thread(wait_until_consumed, group_id, topic, timeout_s=timeout_s, dsn=dsn)


def _partitions(topic: str, dsn: str | None) -> list[TopicPartition]:
    with Admin(dsn) as admin:
        return [TopicPartition(topic, number) for number in range(admin.describe_topic(topic).partitions)]


def _has_record(reader: Consumer, tp: TopicPartition, position: int, end: int) -> bool:
    """Whether a record lies between the two, and not only offsets that were rolled back or compacted away."""
    reader.seek(tp, position)
    for _ in range(_LOOKS):
        if reader.position(tp) >= end:
            return False
        for batch in reader.getmany(tp, timeout_ms=0, max_records=1).values():
            return batch[0].offset < end
    return True  # as far as can be told, where standbys that must have it do not


def _members(admin: Admin, group_id: str) -> str:
    if all(listing.group_id != group_id for listing in admin.list_consumer_groups()):
        return "There is no such group: does the application read as another, or not yet?"
    (group,) = admin.describe_consumer_groups([group_id])
    return f"The group is {group.state}, with {len(group.members)} members."


def _in_order(records: list[ConsumerRecord]) -> list[ConsumerRecord]:
    return sorted(records, key=lambda record: (record.partition, record.offset))


def _brief(records: list[ConsumerRecord]) -> str:
    shown = [f"{record.value!r:.60}" for record in _in_order(records)[:10]]
    return "[" + ", ".join(shown) + (", …]" if len(records) > 10 else "]")
