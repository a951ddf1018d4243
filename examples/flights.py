"""Six weeks of flights, shared by two members of a group, of which one is killed; then SQL is asked the same.

    python examples/flights.py [flights.csv.gz]

Starts a PostgreSQL server of its own in a temporary folder and removes it at the end. A producer sends every flight
as a JSON record keyed by its carrier, while two processes read the six partitions as members of one group. Each adds
up the arrival delays of carriers in a table, and commits what it has added and how far it has read in one transaction.
In the middle of it one member is killed; the other takes over its partitions. At the end SQL computes the same from
the log, because records are rows. Exit status 1 if the two disagree: if a flight was missed or counted twice.
"""

import csv
import gzip
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from pgq import Admin, Consumer, Producer, schema
from pgq.embedded import EmbeddedServer

TOPIC, GROUP = "flights", "delays"
PARTITIONS = 6
SLICE = Path(__file__).parent / "data" / "flights-2013-slice.csv.gz"
NUMBERS = ("year", "month", "day", "flight", "dep_delay", "arr_delay", "distance")
TIME_LIMIT_S = 120.0

ADD_UP = """
    insert into delay as d values (%s, %s, %s, %s) on conflict (carrier) do update set
    flights = d.flights + excluded.flights, arrivals = d.arrivals + excluded.arrivals,
    minutes = d.minutes + excluded.minutes
"""
DELAY_BY_SQL = """
    select flight ->> 'carrier', count(*), count(flight ->> 'arr_delay'), sum((flight ->> 'arr_delay')::int)
    from pgq.partition p
    join pgq.topic t using (topic_id)
    cross join lateral pgq.fetch(t.name, p.partition, 0, 1000000) as record
    cross join lateral (select convert_from(record.value, 'UTF8')::jsonb as flight) as decoded
    where t.name = 'flights'
    group by 1
"""


@dataclass
class Delay:
    """What is known of a carrier's arrivals. Whole minutes, so that both sums must be equal to the last digit."""

    flights: int = 0
    arrivals: int = 0
    minutes: int = 0

    def add(self, arr_delay: int | None) -> None:
        self.flights += 1
        if arr_delay is not None:
            self.arrivals += 1
            self.minutes += arr_delay

    @property
    def mean(self) -> float:
        return self.minutes / self.arrivals if self.arrivals else 0.0


@dataclass
class Load:
    """The producer's side, filled in by its thread."""

    sent: int = 0
    seconds: float = 0.0
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


def read_flights(path: Path) -> Iterator[dict[str, Any]]:
    """Yield one dict a flight; NA becomes None."""
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        for row in csv.DictReader(file):
            flight: dict[str, Any] = {name: None if text in ("", "NA") else text for name, text in row.items()}
            for name in NUMBERS:
                if flight[name] is not None:
                    flight[name] = int(flight[name])
            yield flight


def produce(dsn: str, path: Path, load: Load) -> None:
    """Send every flight. The key decides the partition, so the flights of one carrier stay in order."""
    started = time.perf_counter()
    try:
        with Producer(dsn, key_serializer="str", value_serializer="json") as producer:
            for flight in read_flights(path):
                producer.send(TOPIC, flight, key=flight["carrier"])
                load.sent += 1
            producer.flush()
    except BaseException as error:
        load.error = error
    finally:
        load.seconds = time.perf_counter() - started
        load.done.set()


def be_a_member(dsn: str, name: str) -> None:
    """Share the partitions with the other members; read, add up and commit until killed."""
    with Consumer(
        TOPIC,
        dsn=dsn,
        group_id=GROUP,
        client_id=name,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        value_deserializer="json",
    ) as consumer:
        while True:
            delays: dict[str, Delay] = defaultdict(Delay)
            for records in consumer.getmany(timeout_ms=1000).values():
                for record in records:
                    delays[record.value["carrier"]].add(record.value["arr_delay"])
            if delays:
                with consumer.transaction() as connection, connection.cursor() as cursor:
                    rows = [(carrier, d.flights, d.arrivals, d.minutes) for carrier, d in sorted(delays.items())]
                    cursor.executemany(ADD_UP, rows)


def wait_until(conn: psycopg.Connection[Any], query: str, *least: int) -> None:
    """Ask until each of the numbers that the query returns has reached its least."""
    deadline = time.monotonic() + TIME_LIMIT_S
    while True:
        found = conn.execute(query.encode()).fetchone() or ()
        if all(number >= limit for number, limit in zip(found, least, strict=True)):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{query} was {found} after {TIME_LIMIT_S:.0f} s, and should have become {least}")
        time.sleep(0.01)


def consume(dsn: str, load: Load, console: Console) -> float:
    """Have two members read all flights, and kill one of them halfway. Return the seconds it took."""
    started = time.perf_counter()
    members = [subprocess.Popen([sys.executable, __file__, "--member", dsn, f"member-{n}"]) for n in (1, 2)]
    try:
        with psycopg.connect(dsn, autocommit=True) as conn, console.status("two members read while it is written"):
            read = "select coalesce(sum(flights), 0) from delay"
            wait_until(conn, "select count(*) from pgq.member_status where partitions > 0", 2)
            wait_until(conn, read, 5000)
            members[0].kill()
            killed = time.perf_counter()
            wait_until(conn, "select max(partitions) from pgq.member_status", PARTITIONS)
            took_s = time.perf_counter() - killed
            (before,) = conn.execute(read.encode()).fetchone() or (0,)
            console.print(f"killed member-1; member-2 had its partitions, and all {PARTITIONS}, {took_s:.2f} s later")
            console.print(f"         {before:,} flights were counted then")
            load.done.wait()
            if load.error is not None:
                raise load.error
            wait_until(conn, read, load.sent)
            seconds = time.perf_counter() - started
            wait_until(conn, f"select -sum(lag) from pgq.group_partition_status where group_id = '{GROUP}'", 0)
    finally:
        for member in members:
            member.kill()
            member.wait()
    return seconds


def fetch_delays(dsn: str, query: str) -> dict[str, Delay]:
    with psycopg.connect(dsn) as conn:
        return {carrier: Delay(*numbers) for carrier, *numbers in conn.execute(query.encode())}


def report(console: Console, consumed: dict[str, Delay], queried: dict[str, Delay]) -> None:
    table = Table(title="Arrival delay by carrier")
    table.add_column("carrier")
    for heading in ("flights", "mean by the group, min", "mean by SQL, min"):
        table.add_column(heading, justify="right")
    for carrier in sorted(consumed.keys() | queried.keys(), key=lambda c: -consumed.get(c, Delay()).flights):
        ours, theirs = consumed.get(carrier, Delay()), queried.get(carrier, Delay())
        style = None if ours == theirs else "bold red"
        table.add_row(carrier, f"{ours.flights:,}", f"{ours.mean:.2f}", f"{theirs.mean:.2f}", style=style)
    console.print(table)


def demo(dsn: str, path: Path, console: Console) -> int:
    schema.upgrade(dsn)
    with Admin(dsn) as admin, psycopg.connect(dsn, autocommit=True) as conn:
        admin.create_topic(TOPIC, partitions=PARTITIONS)
        conn.execute("create table delay (carrier text primary key, flights int, arrivals int, minutes int)")

    load = Load()
    producer = threading.Thread(target=produce, args=(dsn, path, load), name="producer")
    producer.start()
    try:
        seconds = consume(dsn, load, console)
    finally:
        producer.join()
    consumed = fetch_delays(dsn, "select * from delay")
    started = time.perf_counter()
    queried = fetch_delays(dsn, DELAY_BY_SQL)
    sql_seconds = time.perf_counter() - started

    report(console, consumed, queried)
    console.print(f"produced {load.sent:,} records in {load.seconds:.1f} s, {load.sent / load.seconds:,.0f} records/s")
    console.print(
        f"counted  {sum(d.flights for d in consumed.values()):,} records in {seconds:.1f} s, start and kill included"
    )
    console.print(f"SQL over the log took {sql_seconds:.1f} s")
    if consumed != queried:
        console.print("[bold red]The group and SQL disagree.[/]")
        return 1
    console.print("[green]The group and SQL agree: no flight was missed, none counted twice.[/]")
    return 0


def main() -> int:
    if sys.argv[1:2] == ["--member"]:
        be_a_member(*sys.argv[2:])
    console = Console()
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else SLICE
    with tempfile.TemporaryDirectory(prefix="pgq-demo-") as folder:
        server = EmbeddedServer(Path(folder) / "data")
        with console.status("starting PostgreSQL"):
            server.start()
        try:
            return demo(server.dsn(), path, console)
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
