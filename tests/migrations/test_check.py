"""`check` finds what differs from this library's schema and changes nothing."""

from __future__ import annotations

from typing import Any

import psycopg

from pgq import schema
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
