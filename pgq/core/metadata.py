"""What a client knows of a topic."""

from __future__ import annotations

from typing import NamedTuple


class TopicMetadata(NamedTuple):
    """Ids are what log tables are named by; the rest is what its configuration says of records."""

    topic: str
    topic_id: int
    partition_ids: tuple[int, ...]
    max_message_bytes: int
    compression_type: str
    timestamp_after_max_ms: int | None
    """None where the server gives the timestamps."""
    needs_key: bool
    """Whether it is compacted, so that a record without a key is refused."""
    fetched_at: float
    """On the monotonic clock, in seconds."""
    upkeep_bytes: int = 16 * 1024 * 1024
    """How much is appended to a partition before its segments are seen to."""
