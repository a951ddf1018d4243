"""The errors of pgq: one tree, one SQLSTATE each, the same whether SQL or Python finds the mistake.

Every error says in a sentence what is wrong and what to do. `retriable` tells whether the same call may succeed later.
The driver's error, where there is one, is the `__cause__`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class PgqError(Exception):
    """Base of all errors of pgq."""

    sqlstate: ClassVar[str] = "PQ000"
    retriable: bool = False


class PartitionsError(PgqError):
    """An error of some partitions, which `partitions` names: TopicPartition(topic, partition) each."""

    def __init__(self, message: str = "", partitions: Iterable[tuple[str, int]] = ()) -> None:
        super().__init__(message)
        self.partitions = frozenset(partitions)


class UnknownTopicOrPartitionError(PgqError):
    """The topic or the partition does not exist."""

    retriable = True  # as in Kafka: it may be about to be created


class UnknownTopicError(UnknownTopicOrPartitionError):
    """No topic has this name."""

    sqlstate = "PQ001"


class UnknownPartitionError(UnknownTopicOrPartitionError):
    """The topic has no partition of this number."""

    sqlstate = "PQ002"


class TopicAlreadyExistsError(PgqError):
    """A topic of this name exists."""

    sqlstate = "PQ003"


class InvalidTopicError(PgqError):
    """The topic name breaks Kafka's rules: 1 to 249 of [a-zA-Z0-9._-], not "." or ".."."""

    sqlstate = "PQ004"


class InvalidPartitionsError(PgqError):
    """The number of partitions is not possible."""

    sqlstate = "PQ005"


class InvalidConfigError(PgqError):
    """A configuration key is unknown or its value is out of bounds."""

    sqlstate = "PQ006"


class MessageTooLargeError(PgqError):
    """Key + value + headers are over the topic's max.message.bytes."""

    sqlstate = "PQ007"


class OffsetOutOfRangeError(PartitionsError):
    """The offset is below the log start or beyond the log end."""

    sqlstate = "PQ008"


class IsolationLevelError(PgqError):
    """A fetch in a REPEATABLE READ or SERIALIZABLE transaction, whose snapshot is too old."""

    sqlstate = "PQ009"


class NotLeaderError(PgqError):
    """The server is a standby; what was asked needs the primary (the leader)."""

    sqlstate = "PQ010"
    retriable = True


class FetchAfterProduceError(PgqError):
    """A fetch from a topic in the transaction that has produced to it."""

    sqlstate = "PQ011"


class DirectInsertError(PgqError):
    """An INSERT into a log table that went around the append rule."""

    sqlstate = "PQ012"


class SchemaError(PgqError):
    """The database's schema pgq does not fit this library."""


class SchemaMissingError(SchemaError):
    """The database has no schema pgq."""

    sqlstate = "PQ013"


class SchemaTooOldError(SchemaError):
    """The schema pgq is older than the library: upgrade it."""

    sqlstate = "PQ014"


class SchemaTooNewError(SchemaError):
    """The schema pgq is newer than the library: upgrade the library."""

    sqlstate = "PQ015"


class ForeignSchemaError(SchemaError):
    """A schema named pgq (or pgq_log, pgq_topic) exists that pgq did not make, such as that of Skytools' PgQ."""

    sqlstate = "PQ016"


class InvalidTimestampError(PgqError):
    """The record's timestamp is before 1970, not finite, or too far ahead of the server's clock."""

    sqlstate = "PQ017"


class InvalidRecordError(PgqError):
    """A key, value or header of the record has a type or form that cannot be stored."""

    sqlstate = "PQ018"


class InvalidGroupIdError(PgqError):
    """The group id is empty or too long, or a call needs one and there is none."""

    sqlstate = "PQ019"


class InvalidCommitOffsetError(PgqError):
    """The offset or the metadata to commit is out of bounds."""

    sqlstate = "PQ020"


class NoOffsetForPartitionError(PartitionsError):
    """auto_offset_reset is "none" and there is no committed offset."""

    sqlstate = "PQ021"


class IllegalStateError(PgqError):
    """The call does not fit the state of the client: it is closed, or nothing is assigned."""

    sqlstate = "PQ022"


class InvalidRequestError(PgqError):
    """An option or an argument is out of bounds."""

    sqlstate = "PQ023"


class BrokerNotAvailableError(PgqError):
    """The server does not answer, refuses the connection, or went away."""

    sqlstate = "PQ024"
    retriable = True


class RequestTimedOutError(PgqError):
    """The call took longer than its timeout; what it began may still happen."""

    sqlstate = "PQ025"
    retriable = True


class DatabaseError(PgqError):
    """PostgreSQL refused a statement for a reason that is not pgq's: see `__cause__`."""

    sqlstate = "PQ026"


class UnsupportedVersionError(PgqError):
    """The PostgreSQL server is older than 15."""

    sqlstate = "PQ027"


class BufferFullError(PgqError):
    """The producer's buffer stayed full for max_block_ms: the server is slower than the application, or gone."""

    sqlstate = "PQ028"
    retriable = True


class NotEnoughReplicasError(PgqError):
    """Fewer servers are in sync than min.insync.replicas asks for; nothing was appended."""

    sqlstate = "PQ029"
    retriable = True


class NotEnoughReplicasAfterAppendError(PgqError):
    """Appended on the leader, but the wait for its standbys was cut short: a failover may lose the records."""

    sqlstate = "PQ030"
    retriable = True


class ProducerFencedError(PgqError):
    """Another producer with the same transactional_id has started; this one may not append any more."""

    sqlstate = "PQ031"


class UnknownProducerIdError(PgqError):
    """The server has forgotten the producer's earlier flushes, so one of unknown outcome cannot be begun again."""

    sqlstate = "PQ032"


class UnsupportedCompressionTypeError(PgqError):
    """The codec is not known, or the library for it is not installed."""

    sqlstate = "PQ033"


class CorruptRecordError(PgqError):
    """A compressed value is no such, or decompresses to more than max_decompressed_bytes."""

    sqlstate = "PQ034"


class UnknownMemberIdError(PgqError):
    """Not a member of the group, or no longer; or a commit from outside for a partition that a member holds."""

    sqlstate = "PQ035"


class CommitFailedError(PartitionsError):
    """Partitions to commit for have another owner by now; nothing was stored. Go on: the others are not affected."""

    sqlstate = "PQ036"


class InconsistentGroupProtocolError(PgqError):
    """The group's members share out partitions by another partition_assignment_strategy."""

    sqlstate = "PQ037"


class FencedInstanceIdError(PgqError):
    """Another consumer with the same group_instance_id has joined; this one may not go on."""

    sqlstate = "PQ038"


class NonEmptyGroupError(PgqError):
    """The group has members: stop them first."""

    sqlstate = "PQ039"


class GroupIdNotFoundError(PgqError):
    """No group has this id."""

    sqlstate = "PQ040"


class GroupSubscribedToTopicError(PgqError):
    """Members of the group read the topic: stop them first."""

    sqlstate = "PQ041"


class UnsupportedPoolerError(PgqError):
    """A member of a group needs a session of its own, and this connection goes through a pooler."""

    sqlstate = "PQ042"


class ClusterAuthorizationFailedError(PgqError):
    """The service has to make and drop tables: connect as the role that owns the schema pgq, or as a member of it."""

    sqlstate = "PQ043"


class InvalidDelayedIdError(PgqError):
    """Not what a delayed send returned."""

    sqlstate = "PQ044"


def _tree(root: type[PgqError]) -> list[type[PgqError]]:
    return [root] + [error for child in root.__subclasses__() for error in _tree(child)]


BY_SQLSTATE: dict[str, type[PgqError]] = {error.sqlstate: error for error in _tree(PgqError)}
BY_SQLSTATE["PQ000"] = PgqError
