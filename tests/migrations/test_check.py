"""`check` finds what differs from this library's schema and changes nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgq import schema
from pgq.schema import compare
from tests.migrations.test_fresh_install import bodies


def test_check_is_empty_after_an_upgrade(dsn: str) -> None:
    assert schema.check(dsn) == []


def test_check_finds_changed_and_missing_functions_and_changes_nothing(dsn: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "create or replace function pgq.list_topics() returns setof pgq.topic_description"
        " language sql stable as 'select null::int, null::text, null::int, null::jsonb where false'"
    )
    conn.execute("drop function pgq.murmur2(bytea)")
    before = bodies(dsn)
    expected = [
        "function pgq.list_topics() is changed: run `pgq db upgrade`",
        "function pgq.murmur2(bytea) is missing: run `pgq db upgrade`",
    ]
    assert schema.check(dsn) == expected
    assert schema.check(dsn) == expected
    assert bodies(dsn) == before

    schema.upgrade(dsn)
    assert schema.check(dsn) == []
    assert conn.execute("select pgq.murmur2('abc')").fetchone() == (479470107,)


def test_check_finds_a_changed_setting(dsn: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("alter function pgq.murmur2(bytea) reset search_path")
    assert schema.check(dsn) == ["function pgq.murmur2(bytea) is changed: run `pgq db upgrade`"]


def test_check_does_not_mind_topics_and_functions_of_others(dsn: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgq.create_topic('orders', 3)")
    conn.execute("create function public.list_topics() returns int language sql as 'select 1'")
    assert schema.check(dsn) == []


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (
            "alter table pgq.skipped_range drop column to_offset",
            "column pgq.skipped_range.to_offset is missing: make it `bigint not null`",
        ),
        (
            "alter table pgq.segment alter end_offset type numeric",
            "column pgq.segment.end_offset is changed: make it `bigint not null`, not `numeric not null`",
        ),
        ("alter table pgq.topic add column note text", "column pgq.topic.note is not pgq's: drop it"),
        (
            "alter table pgq.topic drop constraint topic_name_key",
            "constraint topic_name_key of pgq.topic is missing: make it `UNIQUE (name)`",
        ),
        (
            "alter table pgq.segment add constraint odd check (base_offset >= 0)",
            "constraint odd of pgq.segment is not pgq's: drop it",
        ),
        ("drop view pgq.topic_status", "view pgq.topic_status is missing: run `pgq db upgrade`"),
    ],
)
def test_check_finds_what_is_wrong_with_tables_and_views(
    dsn: str, conn: psycopg.Connection[Any], damage: str, sentence: str
) -> None:
    """Views stand on some of the tables, so what must go with a column is left out of the comparison."""
    if "alter table" in damage:
        conn.execute("drop view pgq.topic_status, pgq.partition_status, pgq.segment_status")
        conn.execute("drop view pgq.group_status, pgq.group_partition_status, pgq.member_status")
    conn.execute(damage)
    assert [s for s in schema.check(dsn) if "alter table" not in damage or not s.startswith("view ")] == [sentence]


def test_check_finds_what_is_wrong_with_the_log(dsn: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgq.create_topic('orders', 2)")
    conn.execute("select pgq.produce('orders', 'v', partition => 1)")
    conn.execute("select setval('pgq_log.t1_p1_offset', 0, false); drop view pgq_topic.orders")
    behind = "pgq_log.t1_p1_offset gives offset 0 next, but the last record is at 0"
    assert schema.check(dsn) == [
        "topic 'orders': the view pgq_topic.orders is missing: run `pgq db upgrade`",
        f"topic 'orders': partition 1: the sequence {behind}: run pgq.restart_offsets() or `pgq db repair`",
    ]
    assert schema.repair(dsn) == [
        "topic 'orders': partition 1: the sequence pgq_log.t1_p1_offset gave 0 next, and gives 1 now"
    ]
    assert schema.check(dsn) == []


def test_nobody_waits_for_a_check(dsn: str, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What others do while the fresh install stands beside the schema, which is the longest part of it."""
    conn.execute("select pgq.create_topic('orders', 2)")
    conn.execute("set lock_timeout = '2s'")
    seen = []
    objects = compare._objects

    def others(raw: psycopg.Connection[Any], name: str) -> compare.Objects:
        conn.execute("select pgq.produce('orders', 'v', partition => 0)")
        conn.execute("select pgq.fetch('orders', 0, 0), pgq.upkeep(1), pgq._make_segment(1, 4096)")
        conn.execute("select pgq.create_topic('new')")
        conn.execute("select pgq.delete_topic('new')")
        seen.append(name)
        return objects(raw, name)

    monkeypatch.setattr(compare, "_objects", others)
    assert schema.check(dsn) == []
    assert seen == ["pgq", "pgq__fresh"]
    assert conn.execute("select to_regnamespace('pgq__fresh')").fetchone() == (None,)
