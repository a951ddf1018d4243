"""The values that clients take and return. Names and fields are aiokafka's, times are milliseconds since 1970 (UTC)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Header = tuple[str, bytes | None]
Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]


class TopicPartition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class RecordMetadata(NamedTuple):
    """Where a record was appended."""

    topic: str
    partition: int
    offset: int
    timestamp: int

    @property
    def topic_partition(self) -> TopicPartition:
        """The partition."""
        return TopicPartition(self.topic, self.partition)


class DelayedRecordMetadata(NamedTuple):
    """What is known of a record that waits until it is due. Its offset is taken when it is appended."""

    topic: str
    partition: int
    delayed_id: str
    """What cancel_delayed takes."""
    due_at: int


class ConsumerRecord(NamedTuple):
    """A record as it was read. A NamedTuple, since a hundred thousand of them a second are made."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    """0: set by the producer (CreateTime)."""
    key: Any
    value: Any
    headers: tuple[Header, ...]


class FlushReport(NamedTuple):
    """How one flush of a producer ended: what its `on_flush` is told."""

    topics: tuple[str, ...]
    partitions: int
    records: int
    bytes: int
    """As buffered."""
    acks: str
    attempts: int
    seconds: float
    """From the first attempt's beginning, waits between attempts included."""
    error: BaseException | None


class OffsetAndMetadata(NamedTuple):
    """A committed offset: the next one that the group will process."""

    offset: int
    metadata: str = ""


class OffsetAndTimestamp(NamedTuple):
    """The answer to a search by time."""

    offset: int
    timestamp: int


class ConsumerRebalanceListener:
    """Told when a consumer's partitions change hands: subclass it and give it to `subscribe`.

    It is called within the consumer's own calls (`getmany`, iteration, `close`), never beside them. The async consumer
    awaits what its methods return if that can be awaited.
    """

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> Any:
        """Hear which partitions are about to be given up: they are still this consumer's, so commit what is done."""

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> Any:
        """Hear which partitions have come, before any record of them: `seek` here, if anywhere."""

    def on_partitions_lost(self, lost: set[TopicPartition]) -> Any:
        """Hear which partitions have gone already, to others perhaps: nothing can be committed.

        If it is not defined, on_partitions_revoked is called.
        """
        return self.on_partitions_revoked(lost)


class TopicDescription(NamedTuple):
    """A topic, its number of partitions and its whole configuration, defaults included."""

    topic_id: int
    name: str
    partitions: int
    config: dict[str, int | str]


class ConsumerGroupListing(NamedTuple):
    """A consumer group, and what it is about."""

    group_id: str
    state: str | None
    """Empty: no member lives. Stable: its members hold every partition of what they read. Rebalancing: not all, or not
    yet. None on a follower, which cannot know."""


class MemberDescription(NamedTuple):
    """A member of a consumer group."""

    member_id: int
    group_instance_id: str | None
    client_id: str
    host: str | None
    """None: it is connected by a Unix socket."""
    pid: int
    """Of its session in the server."""
    joined_at: int
    alive: bool | None
    """False: its session has ended, and nobody has removed it yet, or it is a static member that may come back."""
    session_timeout_ms: int
    topics: tuple[str, ...]
    assignment: tuple[TopicPartition, ...]
    """The partitions that it holds right now."""


class ConsumerGroupDescription(NamedTuple):
    """A consumer group and its members."""

    group_id: str
    state: str | None
    """As of a ConsumerGroupListing."""
    assignor: str | None
    generation: int
    lag: int | None
    """How many offsets it has still to process; None if it has committed nothing."""
    members: list[MemberDescription]


class OffsetReset(NamedTuple):
    """What a partition's committed offset is, and what it has become or would become."""

    topic: str
    partition: int
    current_offset: int | None
    new_offset: int
    clamped: bool
    """Whether new_offset is the nearest that there is to what was asked for."""


class DeadLetter(NamedTuple):
    """A record that a group could not process, and what is known of that. What its headers do not tell is None."""

    topic: str
    """Where it was read first: its origin."""
    group_id: str
    dead_letter_topic: str
    partition: int
    offset: int
    """Where it is now."""
    origin_partition: int | None
    origin_offset: int | None
    failed_at: int
    """When it failed last; its timestamp if that is not known."""
    attempts: int | None
    """How often it was processed in vain, since it was last sent back."""
    redriven: int
    """How often it was sent back."""
    first_error: str | None
    last_error: str | None
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    codec: int | None
    """None, or by which codec value is still compressed, since it cannot be decompressed here."""


class SettledDeadLetter(NamedTuple):
    """A dead letter that was sent back or given up, or would be."""

    topic: str
    group_id: str
    dead_letter_topic: str
    partition: int
    offset: int
    origin_partition: int | None
    origin_offset: int | None
    failed_at: int
    last_error: str | None
    retry_topic: str | None
    """Where it was sent; None if it was given up."""


class ServerDescription(NamedTuple):
    """A server of the cluster as the leader knows it; what is not known is None."""

    server: str
    """A follower's application_name, the leader's cluster_name."""
    role: str
    """leader or follower"""
    address: str | None
    port: int | None
    state: str | None
    """streaming, catchup, startup, stopping; disconnected for a synchronous standby that is named and not there"""
    sync_state: str | None
    """sync, quorum, potential or async"""
    flush_lag_bytes: int | None
    replay_lag_bytes: int | None
    lag_seconds: float | None


class ClusterDescription(NamedTuple):
    """The servers that hold the log, and what acks=all means right now."""

    servers: list[ServerDescription]
    synchronous_standby_names: str
    in_sync_replicas: int | None
    """On how many servers, the leader included, a commit is certain to be; None where that cannot be seen."""
    acks_all: str
    """What an append with acks=all waits for, in a sentence."""
    warnings: list[str]
    """What speaks against trusting it, in sentences."""
