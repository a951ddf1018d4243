"""pgq: a durable, partitioned, replayable log inside PostgreSQL, with Kafka's semantics."""

from pgq import errors
from pgq.aio.admin import AsyncAdmin
from pgq.aio.consumer import AsyncConsumer
from pgq.aio.outbox import AsyncOutbox
from pgq.aio.producer import AsyncProducer
from pgq.core.partitioner import partition_for_key
from pgq.core.retries import FailureHistory, Reject, RetryLater, RetryPolicy, failure_history
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
    DeadLetter,
    DelayedRecordMetadata,
    FlushReport,
    MemberDescription,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    OffsetReset,
    RecordMetadata,
    ServerDescription,
    SettledDeadLetter,
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
    "DeadLetter",
    "DelayedRecordMetadata",
    "FailureHistory",
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
    "Reject",
    "RetryLater",
    "RetryPolicy",
    "ServerDescription",
    "SettledDeadLetter",
    "TopicDescription",
    "TopicPartition",
    "compound_key",
    "compound_keys",
    "errors",
    "failure_history",
    "outbox",
    "partition_for_key",
    "split_compound_key",
]
