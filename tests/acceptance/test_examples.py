"""The programs in examples/ do what they say: each runs on the test's database, and what it left is looked at."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgq import Admin
from pgq.testing import drain

EXAMPLES = Path(__file__).parents[2] / "examples"

Run = Callable[..., str]


@pytest.fixture
def run(dsn: str) -> Run:
    """Runs a program and returns what it printed."""

    def run(name: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, EXAMPLES / name],
            env=os.environ | {"PGQ_DSN": dsn} | environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        # none but those that the log has of dead letters
        unexpected = re.sub(
            r": dead letter\nTraceback .*?(?=^group |\Z)", "", done.stderr, flags=re.DOTALL | re.MULTILINE
        )
        assert "Traceback" not in unexpected, done.stderr
        return done.stdout

    return run


def fetch(conn: psycopg.Connection[Any], query: str) -> list[tuple[Any, ...]]:
    return conn.execute(query).fetchall()


def committed_all(conn: psycopg.Connection[Any], group: str) -> bool:
    """Whether a group has done all that is in its topics."""
    query = "select coalesce(sum(lag), 0) from pgq.group_partition_status where group_id = %s"
    return conn.execute(query, [group]).fetchone() == (0,)


def test_web_crawler(run: Run, conn: psycopg.Connection[Any], dsn: str) -> None:
    output = run("web_crawler.py")
    assert "fetched 60 pages with 8 threads" in output
    assert "dead letter: /missing after 1: Reject: 404: there is no such page" in output
    assert "dead letter: /overloaded after 4: HTTPError: HTTP Error 503: Service Unavailable" in output
    # 7, 17, 27, 37, 47 and 57 failed twice, /overloaded three times before it was given up
    assert "15 failures were tried again" in output

    pages = dict(fetch(conn, "select url, links from page"))
    assert pages.keys() == {*(f"/page/{n}" for n in range(1, 61)), "/missing", "/overloaded"}
    assert {url for url, links in pages.items() if links is None} == {"/missing", "/overloaded"}
    sent = [record.value.decode() for record in drain("urls", dsn=dsn)]
    assert sorted(sent) == sorted(pages), "each URL is one record"
    assert committed_all(conn, "crawlers")
    with Admin(dsn) as admin:
        assert {letter.value for letter in admin.list_dead_letters("urls", "crawlers")} == {b"/missing", b"/overloaded"}


def test_ad_clicks(run: Run, conn: psycopg.Connection[Any]) -> None:
    output = run("ad_clicks.py")
    assert re.search(r"counter-\d failed with [\d,]+ clicks: nothing of it stays, they come again", output)
    assert "totals agree" in output
    skew, without = re.findall(r"\d\.\d\d", output)[:2]
    assert float(skew) < 1.3
    assert float(without) > 3
    assert fetch(conn, "select sum(clicks) from clicks_of_ad") == [(30_000,)]
    sent = fetch(
        conn,
        "select convert_from(k.key, 'UTF8') as ad, count(*)"
        " from pgq_topic.clicks c, pgq.split_compound_key(c.key_bytes) k group by 1 order by 1",
    )
    assert fetch(conn, "select ad, clicks from clicks_of_ad order by ad") == sent
    assert fetch(conn, "select count(distinct partition) from pgq_topic.clicks where starts_with(key, 'ad-0#')") == [
        (6,)
    ]
    assert fetch(conn, 'select sum(value::int) from pgq_topic."partial-counts"') == [(30_000,)]
    assert committed_all(conn, "counters")
    assert committed_all(conn, "adders")


def test_ticket_queue(run: Run, conn: psycopg.Connection[Any], dsn: str) -> None:
    output = run("ticket_queue.py")
    assert "the first 10 got them" in output
    assert "payment failed 9 times, and was tried again 9 times" in output
    requests = [(record.key.decode(), record.value.decode()) for record in drain("ticket-requests", dsn=dsn)]
    assert len(requests) == 75
    for concert in ("helsinki", "lisbon", "vienna"):
        first = [fan for place, fan in requests if place == concert][:10]
        answers = fetch(conn, f"select fan, ticket from answer where concert = '{concert}' order by ticket")
        assert answers[:10] == [(fan, number) for number, fan in enumerate(first, 1)]
        assert [ticket for _, ticket in answers[10:]] == [None] * 15
    assert committed_all(conn, "box-office")
    assert drain("ticket-requests.box-office.retry", dsn=dsn) == [], "a queue is not left to come back to it"
    assert drain("ticket-requests.box-office.dlq", dsn=dsn) == []


def test_live_comments(run: Run, conn: psycopg.Connection[Any], dsn: str) -> None:
    output = run("live_comments.py")
    assert "90 comments shown" in output
    assert "99 looks at them, 9 of them again" in output
    assert "15 taken down" in output
    assert "each stream in order, spam and nothing else taken down" in output
    spam = {r.value["id"] for r in drain("comments", dsn=dsn, value_deserializer="json") if "BUY" in r.value["text"]}
    assert {record.value["id"] for record in drain("removals", dsn=dsn, value_deserializer="json")} == spam
    assert committed_all(conn, "moderation")
    assert len(drain("comments.moderation.retry", dsn=dsn)) == 9
    assert drain("comments.moderation.dlq", dsn=dsn) == []


def test_order_outbox(run: Run, conn: psycopg.Connection[Any], dsn: str) -> None:
    output = run("order_outbox.py")
    assert "one order was rolled back" in output
    assert "8 orders placed, 8 announced, 8 invoices over 428.40 in all" in output
    assert "4 paid, 4 reminders cancelled, 4 reminded" in output
    assert "every order has one invoice, and only who has not paid is reminded" in output
    orders = fetch(conn, "select id, amount, paid from customer_order order by id")
    announced = [record.value for record in drain("orders", dsn=dsn, value_deserializer="json")]
    assert sorted((a["order"], a["amount"]) for a in announced) == [(number, amount) for number, amount, _ in orders]
    assert fetch(conn, "select order_id from invoice order by order_id") == [(number,) for number, _, _ in orders]
    reminders = drain("payment-reminders", dsn=dsn, value_deserializer="json")
    assert [record.value["order"] for record in reminders] == [number for number, _, paid in orders if not paid]
    assert fetch(conn, "select count(*) from pgq.delayed_records") == [(0,)]
    assert committed_all(conn, "invoicing")
    assert committed_all(conn, "reminders")


@pytest.mark.usefixtures("bin_dir")
def test_an_example_brings_its_own_server(run: Run, conn: psycopg.Connection[Any]) -> None:
    assert "the first 10 got them" in run("ticket_queue.py", PGQ_DSN="")
    assert fetch(conn, "select count(*) from pgq.topic") == [(0,)]


def test_the_page_names_every_example() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| \[(\w+\.py)\]\(\1\)", page, re.MULTILINE)) == {
        program.name for program in EXAMPLES.glob("*.py") if program.name != "database.py"
    }
    for link in re.findall(r"\]\(([^)]+)\)", page):
        assert (EXAMPLES / link).exists(), link
