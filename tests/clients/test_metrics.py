"""A producer counts what became of its records, and tells of each flush."""

from __future__ import annotations

import pytest

from pgq import FlushReport, errors
from pgq.telemetry import PRODUCER_METRICS
from tests.plugins.proxy import Loss, Proxy
from tests.plugins.sessions import Connection, call

from .conftest import Clients


async def test_metrics_and_reports(clients: Clients, conn: Connection, topic: str, wide_topic: str) -> None:
    reports: list[FlushReport] = []
    call(conn, "create_topic", name="doomed")
    async with clients.producer(linger_ms=60_000, on_flush=reports.append) as producer:
        assert producer.metrics().keys() == {metric.name for metric in PRODUCER_METRICS}
        for partition in range(3):
            await producer.send(wide_topic, b"12345", partition=partition)
        await producer.send(topic, b"1", acks="all")
        assert producer.metrics()["buffer_bytes"] > 16
        await producer.flush()
        doomed = await producer.send("doomed", b"1", acks=0)
        await producer.send(topic, b"2", acks=0)
        call(conn, "delete_topic", name="doomed")
        with pytest.raises(errors.UnknownTopicOrPartitionError):
            await producer.flush()
        assert doomed.exception() is not None
        metrics = producer.metrics()
    assert metrics["records_sent_total"] == 5
    assert metrics["record_errors_total"] == 1
    assert metrics["flushes_total"] == len(reports) == 4, "one for both topics, then one each"
    assert metrics["flush_retries_total"] == metrics["buffer_bytes"] == metrics["buffer_wait_seconds_total"] == 0
    assert metrics["buffer_available_bytes"] == 33_554_432
    assert 0 < metrics["flush_seconds_max"] <= metrics["flush_seconds_total"]
    first = reports[0]
    assert (set(first.topics), first.partitions, first.records, first.acks) == ({topic, wide_topic}, 4, 4, "all")
    assert (first.attempts, first.error) == (1, None)
    assert 16 < first.bytes < 1000
    assert sum(report.error is not None for report in reports) == 2
    assert {report.acks for report in reports[1:]} == {"0"}


async def test_retries_are_counted(clients: Clients, proxy: Proxy, dsn: str, topic: str) -> None:
    reports: list[FlushReport] = []

    def tell(report: FlushReport) -> None:
        reports.append(report)
        raise RuntimeError("the application's mistake, which hurts nobody")

    proxy.plan = lambda number: Loss.REPLY if number < 3 else None
    async with clients.producer(dsn=proxy.dsn(dsn), retry_backoff_ms=1, on_flush=tell) as producer:
        await producer.send_and_wait(topic, b"1")
        assert producer.metrics()["flush_retries_total"] == 2
    assert [report.attempts for report in reports] == [3]
