"""The catalogue of what clients and the service measure. A metric stands here before it is counted."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A number that a client's `metrics()` returns under this name, or `pgq serve` at /metrics."""

    name: str
    kind: Literal["counter", "gauge"]
    """A counter only grows while the client or the service lives."""
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    """What tells the numbers of one name apart."""


PRODUCER_METRICS = (
    Metric("records_sent_total", "counter", "records", "Records whose futures succeeded."),
    Metric("record_errors_total", "counter", "records", "Records whose futures failed."),
    Metric("bytes_sent_total", "counter", "bytes", "Bytes of the records that succeeded, as buffered."),
    Metric("flushes_total", "counter", "flushes", "Flushes that ended, well or not."),
    Metric("flush_retries_total", "counter", "attempts", "Attempts beyond the first."),
    Metric("flush_seconds_total", "counter", "seconds", "Time that flushes took, waits between attempts included."),
    Metric("flush_seconds_max", "gauge", "seconds", "The longest of them."),
    Metric("buffer_bytes", "gauge", "bytes", "Bytes that are buffered or being flushed."),
    Metric("buffer_available_bytes", "gauge", "bytes", "Bytes that may be buffered before `send` waits."),
    Metric("buffer_wait_seconds_total", "counter", "seconds", "Time that `send` waited for room."),
)

CONSUMER_METRICS = (
    Metric("records_processed_total", "counter", "records", "Records for which the handler of `run` returned."),
    Metric("records_failed_total", "counter", "records", "Records for which it raised, every attempt counted."),
    Metric("records_retried_total", "counter", "records", "Records noted to be tried again, in place or later."),
    Metric("records_dead_lettered_total", "counter", "records", "Records noted to be dead letters."),
    Metric("records_in_flight", "gauge", "records", "Records that `run` has and is not done with."),
    Metric("handler_seconds_total", "counter", "seconds", "Time that the handler took."),
    Metric("handler_seconds_max", "gauge", "seconds", "The longest of them."),
    Metric("commits_total", "counter", "commits", "Commits of offsets that succeeded, without those on a connection."),
    Metric("commit_errors_total", "counter", "commits", "Commits of offsets that failed."),
    Metric("partitions", "gauge", "partitions", "Partitions that are read."),
)

_PARTITION = ("topic", "partition")
_GROUP = ("consumergroup", "topic")
_GROUP_PARTITION = ("consumergroup", "topic", "partition")

SERVICE_METRICS = (
    Metric(
        "pgq_up", "gauge", "", "1 if the database answered this scrape, else 0. What is read from it is left out then."
    ),
    Metric("pgq_scrape_duration_seconds", "gauge", "seconds", "How long the database took for this scrape."),
    Metric("pgq_build_info", "gauge", "", "1; the label says which pgq it is.", ("version",)),
    Metric("pgq_topic_partitions", "gauge", "partitions", "Partitions of a topic.", ("topic",)),
    Metric("pgq_topic_partition_current_offset", "gauge", "offset", "High watermark: where readers stop.", _PARTITION),
    Metric(
        "pgq_topic_partition_oldest_offset", "gauge", "offset", "Log start: the first that can be read.", _PARTITION
    ),
    Metric("pgq_topic_partition_size_bytes", "gauge", "bytes", "On disk: tables, indexes and TOAST.", _PARTITION),
    Metric("pgq_topic_partition_segments", "gauge", "segments", "Segments, those made ahead included.", _PARTITION),
    Metric(
        "pgq_topic_partition_producer_age_seconds",
        "gauge",
        "seconds",
        "Age of the oldest open transaction that has appended, which readers wait for; 0 without one.",
        _PARTITION,
    ),
    Metric("pgq_consumergroup_members", "gauge", "members", "Living members of a group.", ("consumergroup",)),
    Metric("pgq_consumergroup_current_offset", "gauge", "offset", "Committed offset.", _GROUP_PARTITION),
    Metric("pgq_consumergroup_current_offset_sum", "gauge", "offset", "The sum of a topic's.", _GROUP),
    Metric("pgq_consumergroup_lag", "gauge", "records", "Records between it and the high watermark.", _GROUP_PARTITION),
    Metric("pgq_consumergroup_lag_sum", "gauge", "records", "The sum of a topic's.", _GROUP),
    Metric(
        "pgq_consumergroup_lag_seconds",
        "gauge",
        "seconds",
        "Age of the first record that is not processed; 0 without one.",
        _GROUP_PARTITION,
    ),
    Metric(
        "pgq_delayed_records",
        "gauge",
        "records",
        "Records that wait for their time, failed ones that are tried again later included; many are estimated.",
        ("topic",),
    ),
    Metric(
        "pgq_delayed_overdue_seconds",
        "gauge",
        "seconds",
        "For how long the first of the delayed records has been due; 0 if none is.",
    ),
    Metric(
        "pgq_in_sync_replicas", "gauge", "servers", "Servers that have what acks=all acknowledges, leader included."
    ),
    Metric("pgq_job_leads", "gauge", "", "1 if this instance does the job, 0 if it stands by.", ("job",)),
    Metric(
        "pgq_job_runs_total", "counter", "runs", "Runs that ended, by outcome: success or failure.", ("job", "outcome")
    ),
    Metric("pgq_job_seconds_total", "counter", "seconds", "Time that these took.", ("job",)),
    Metric(
        "pgq_job_last_success_timestamp_seconds",
        "gauge",
        "seconds",
        "When this instance last did the job well: seconds since 1970; left out if it never has.",
        ("job",),
    ),
    Metric("pgq_job_done_total", "counter", "", "How much of what it did, such as dropped segments.", ("job", "what")),
)
"""What `pgq serve` has at /metrics. The names are those of kafka_exporter, with pgq for kafka."""
