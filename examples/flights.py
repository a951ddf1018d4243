"""Load six weeks of flights into a topic, read them while they arrive, and ask SQL the same question.

    python examples/flights.py [flights.csv.gz]

Starts a PostgreSQL server of its own in a temporary folder and removes it at the end. A producer sends every flight
as a JSON record keyed by its carrier; a consumer reads the six partitions at the same time and keeps the mean arrival
delay of each carrier. At the end SQL computes the same from the log, because records are rows. Exit status 1 if the two
disagree.
"""

import csv
import gzip
import json
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

TOPIC = "flights"
PARTITIONS = 6
SLICE = Path(__file__).parent / "data" / "flights-2013-slice.csv.gz"
NUMBERS = ("year", "month", "day", "flight", "dep_delay", "arr_delay", "distance")

MEAN_DELAY_BY_SQL = """
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
        with Producer(dsn, key_serializer=str.encode, value_serializer=lambda v: json.dumps(v).encode()) as producer:
            for flight in read_flights(path):
                producer.send(TOPIC, flight, key=flight["carrier"])
                load.sent += 1
            producer.flush()
    except BaseException as error:
        load.error = error
    finally:
        load.seconds = time.perf_counter() - started
        load.done.set()


def consume(dsn: str, load: Load, console: Console) -> tuple[dict[str, Delay], int, int, float]:
    """Read from the earliest record until the producer is done and nothing is left.

    Returns the delays, the records read, how many of them before the producer was done, and the seconds it took.
    """
    delays: dict[str, Delay] = defaultdict(Delay)
    read = early = 0
    started = time.perf_counter()
    with (
        console.status("reading while it is being written") as status,
        Consumer(TOPIC, dsn=dsn, auto_offset_reset="earliest", value_deserializer=json.loads) as consumer,
    ):
        while not load.done.is_set() or (load.error is None and read < load.sent):
            for records in consumer.getmany(timeout_ms=200, max_records=5000).values():
                for record in records:
                    delays[record.value["carrier"]].add(record.value["arr_delay"])
                read += len(records)
            if not load.done.is_set():
                early = read
            status.update(f"reading while it is being written: {read:,} read")
    return delays, read, early, time.perf_counter() - started


def by_sql(dsn: str) -> tuple[dict[str, Delay], float]:
    """Compute the same with one query over the log."""
    started = time.perf_counter()
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(MEAN_DELAY_BY_SQL).fetchall()
    return {carrier: Delay(*numbers) for carrier, *numbers in rows}, time.perf_counter() - started


def report(console: Console, consumed: dict[str, Delay], queried: dict[str, Delay]) -> None:
    table = Table(title="Arrival delay by carrier")
    table.add_column("carrier")
    for heading in ("flights", "mean by the consumer, min", "mean by SQL, min"):
        table.add_column(heading, justify="right")
    for carrier in sorted(consumed.keys() | queried.keys(), key=lambda c: -consumed.get(c, Delay()).flights):
        ours, theirs = consumed.get(carrier, Delay()), queried.get(carrier, Delay())
        style = None if ours == theirs else "bold red"
        table.add_row(carrier, f"{ours.flights:,}", f"{ours.mean:.2f}", f"{theirs.mean:.2f}", style=style)
    console.print(table)


def demo(dsn: str, path: Path, console: Console) -> int:
    schema.upgrade(dsn)
    with Admin(dsn) as admin:
        admin.create_topic(TOPIC, partitions=PARTITIONS)

    load = Load()
    producer = threading.Thread(target=produce, args=(dsn, path, load), name="producer")
    producer.start()
    consumed, read, early, seconds = consume(dsn, load, console)
    producer.join()
    if load.error is not None:
        raise load.error
    queried, sql_seconds = by_sql(dsn)

    report(console, consumed, queried)
    console.print(f"produced {load.sent:,} records in {load.seconds:.1f} s, {load.sent / load.seconds:,.0f} records/s")
    console.print(f"read     {read:,} records in {seconds:.1f} s, {read / seconds:,.0f} records/s")
    console.print(f"         {early:,} of them before the producer was done")
    console.print(f"SQL over the log took {sql_seconds:.1f} s")
    if read != load.sent or consumed != queried:
        console.print("[bold red]The consumer and SQL disagree.[/]")
        return 1
    console.print("[green]The consumer and SQL agree.[/]")
    return 0


def main() -> int:
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
