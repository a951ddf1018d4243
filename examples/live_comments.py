"""Comments on live streams: one topic, read by a moderation group and by a display group, each in full.

    python examples/live_comments.py

Records stay in the log when they were read, so a topic has any number of groups: each has offsets of its own, and
neither takes anything from another. The display shows every comment as it comes. Moderation looks at each with `run`:
several at a time, in order within a stream (the key), and again later when the service that it asks does not answer.
What it takes down is announced in a second topic, which the display reads as well. All clients are the async ones.

Runs on a PostgreSQL of its own, or in the database that PGQ_DSN names; needs `pip install 'pgq-log[embedded]'`.
"""

import asyncio
import random
import sys
import time
from statistics import median
from typing import Any

from database import database

from pgq import AsyncAdmin, AsyncConsumer, AsyncProducer, ConsumerRecord, RetryPolicy

COMMENTS, REMOVALS = "comments", "removals"
STREAMS, SENT, TIME_LIMIT_S = ("chess", "cooking", "space"), 90, 60.0
WORDS = ("wow", "nice", "what was that?", "again!", "hello from Oslo", "BUY FOLLOWERS")
RETRY = RetryPolicy(max_attempts=5, initial=0.1)


class Classifier:
    """Stands for a service elsewhere: takes its time, and does not answer every tenth call."""

    def __init__(self) -> None:
        self.calls = 0

    async def is_spam(self, text: str) -> bool:
        self.calls += 1
        fails = self.calls % 10 == 0
        await asyncio.sleep(0.01)
        if fails:
            raise ConnectionError("the classifier does not answer")
        return "BUY" in text


class Display:
    """What viewers see: the comments in order of arrival, without those taken down."""

    def __init__(self) -> None:
        self.shown: dict[int, dict[str, Any]] = {}
        self.removed: set[int] = set()
        self.delays_ms: list[float] = []

    async def follow(self, removals: int) -> None:
        """Read both topics until everything was shown, and taken down what should be."""
        async with AsyncConsumer(
            COMMENTS, REMOVALS, group_id="display", auto_offset_reset="earliest", value_deserializer="json"
        ) as consumer:
            async for record in consumer:
                if record.topic == COMMENTS:
                    self.delays_ms.append(time.time() * 1000 - record.timestamp)
                    self.shown[record.value["id"]] = record.value
                else:
                    self.removed.add(record.value["id"])
                if len(self.shown) == SENT and len(self.removed) == removals:
                    return


async def write(comments: list[dict[str, Any]]) -> None:
    """The public: a comment every few milliseconds."""
    async with AsyncProducer(key_serializer="str", value_serializer="json") as producer:
        for comment in comments:
            await producer.send(COMMENTS, comment, key=comment["stream"])
            await asyncio.sleep(0.01)


async def moderate(moderation: AsyncConsumer, classifier: Classifier) -> None:
    looked_at: set[int] = set()
    async with AsyncProducer(key_serializer="str", value_serializer="json") as producer:

        async def look_at(record: ConsumerRecord) -> None:
            """The handler: called again for a record if it fails, or if this process dies before the next commit."""
            if await classifier.is_spam(record.value["text"]):
                await producer.send_and_wait(REMOVALS, {"id": record.value["id"]}, key=record.value["stream"])
            looked_at.add(record.value["id"])
            if len(looked_at) == SENT:
                moderation.stop()  # ends what has begun, commits, leaves the group; a real one runs until SIGTERM

        await moderation.run(look_at, retry=RETRY, concurrency=8)


async def show() -> int:
    comments: list[dict[str, Any]] = [
        {"id": number, "stream": random.choice(STREAMS), "text": WORDS[number % len(WORDS)]} for number in range(SENT)
    ]
    spam = {comment["id"] for comment in comments if "BUY" in comment["text"]}
    async with AsyncAdmin() as admin:
        await admin.create_topic(COMMENTS, partitions=3)
        await admin.create_topic(REMOVALS, partitions=3)

    classifier, display = Classifier(), Display()
    moderation = AsyncConsumer(
        COMMENTS,
        group_id="moderation",
        auto_offset_reset="earliest",
        value_deserializer="json",
        auto_commit_interval_ms=200,  # what has failed goes to the retry topic with the next commit
    )
    async with asyncio.timeout(TIME_LIMIT_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(moderate(moderation, classifier))
        tasks.create_task(display.follow(len(spam)))
        tasks.create_task(write(comments))

    print(f"{len(display.shown)} comments shown, half of them {median(display.delays_ms):.0f} ms after they were sent")
    print(f"{classifier.calls} looks at them, {moderation.metrics()['records_retried_total']:.0f} of them again")
    print(f"{len(display.removed)} taken down")
    in_order = all(
        [shown["id"] for shown in display.shown.values() if shown["stream"] == stream]
        == [comment["id"] for comment in comments if comment["stream"] == stream]
        for stream in STREAMS
    )
    well = in_order and display.removed == spam
    print("each stream in order, spam and nothing else taken down" if well else "something is WRONG")
    return 0 if well else 1


if __name__ == "__main__":
    with database():
        sys.exit(asyncio.run(show()))
