"""What a client knows of a topic."""

from __future__ import annotations

from typing import NamedTuple


class TopicMetadata(NamedTuple):
    """Ids are what log tables are named by; max_message_bytes bounds key + value + headers."""

    topic: str
    topic_id: int
    partition_ids: tuple[int, ...]
    max_message_bytes: int
    fetched_at: float
    """On the monotonic clock, in seconds."""
