"""pgq: a durable, partitioned, replayable log inside PostgreSQL, with Kafka's semantics."""

from pgq import errors
from pgq.aio.admin import AsyncAdmin
from pgq.aio.consumer import AsyncConsumer
from pgq.aio.outbox import AsyncOutbox
from pgq.aio.producer import AsyncProducer
from pgq.core.partitioner import partition_for_key
from pgq.keys import compound_key, compound_keys, split_compound_key
from pgq.outboxes import outbox
from pgq.service.maintenance import JobReport, JobStatus, Maintenance
from pgq.sync.admin import Admin
from pgq.sync.consumer import Consumer
from pgq.sync.outbox import Outbox
from pgq.sync.producer import Producer
from pgq.types import (
    ClusterDescription,
    ConsumerGroupDescription,
    ConsumerGroupListing,
    ConsumerRebalanceListener,
    ConsumerRecord,
    FlushReport,
    MemberDescription,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    OffsetReset,
    RecordMetadata,
    ServerDescription,
    TopicDescription,
    TopicPartition,
)

__version__ = "0.1.0"

__all__ = [
    "Admin",
    "AsyncAdmin",
    "AsyncConsumer",
    "AsyncOutbox",
    "AsyncProducer",
    "ClusterDescription",
    "Consumer",
    "ConsumerGroupDescription",
    "ConsumerGroupListing",
    "ConsumerRebalanceListener",
    "ConsumerRecord",
    "FlushReport",
    "JobReport",
    "JobStatus",
    "Maintenance",
    "MemberDescription",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "OffsetReset",
    "Outbox",
    "Producer",
    "RecordMetadata",
    "ServerDescription",
    "TopicDescription",
    "TopicPartition",
    "compound_key",
    "compound_keys",
    "errors",
    "outbox",
    "partition_for_key",
    "split_compound_key",
]
