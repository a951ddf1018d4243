"""Measure pgq against the raw driver and bare tables, and print medians and their ratios.

    python benchmarks/run.py                          everything but the long ones
    python benchmarks/run.py --only append,fetch      some
    python benchmarks/run.py --quick                  a look, in two minutes
    python benchmarks/run.py --only growth --long     20 million records

Starts a PostgreSQL server of its own, unless --dsn names one (its database is then migrated to pgq's schema, and topics
`bench_…` and the schema `pgq_bench` are made in it and removed). Exit status 1 if a ratio is below its target.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from bench import (
    acks,
    append,
    consume,
    delayed,
    fetch,
    groups,
    growth,
    hotkeys,
    latency,
    memory,
    park,
    produce,
    retention,
    segments,
    sending,
    service,
    snapshot,
    tail,
    worker,
)
from bench.harness import SCHEMA, Bench, Figure
from pgq import schema
from pgq.embedded import EmbeddedServer, find_binaries

BENCHMARKS = {
    "append": append.run,
    "fetch": fetch.run,
    "consume": consume.run,
    "groups": groups.run,
    "latency": latency.run,
    "produce": produce.run,
    "park": park.run,
    "segments": segments.run,
    "growth": growth.run,
    "snapshot": snapshot.run,
    "tail": tail.run,
    "hotkeys": hotkeys.run,
    "sending": sending.run,
    "acks": acks.run,
    "memory": memory.run,
    "service": service.run,
    "retention": retention.run,
    "delayed": delayed.run,
    "worker": worker.run,
}
# Durable as by default. The rest keeps checkpoints from falling into one side of a comparison.
SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"some of {','.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="less work a round, 5 rounds")
    parser.add_argument("--long", action="store_true", help="growth: 20 million records against 1 million")
    parser.add_argument("--rounds", type=int, help="rounds a case (default 7)")
    parser.add_argument("--keys", type=int, default=10_000, help="different keys among the records; 0 = no key")
    parser.add_argument("--dsn", help="use this server instead of a temporary one")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    found = parser.parse_args()
    found.only = found.only.split(",") if found.only else list(BENCHMARKS)
    if unknown := [name for name in found.only if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    found.rounds = found.rounds or (5 if found.quick else 7)
    return found


@contextmanager
def server(dsn: str | None) -> Iterator[str]:
    """The server to measure, migrated."""
    with ExitStack() as stack:
        if dsn is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgq-bench-"))
            dsn = stack.enter_context(EmbeddedServer(Path(folder) / "data", settings=SETTINGS)).dsn()
        schema.upgrade(dsn)
        yield dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"drop schema if exists {SCHEMA} cascade".encode())


def machine(dsn: str) -> dict[str, str | int]:
    with psycopg.connect(dsn) as conn:
        (version,) = conn.execute("select current_setting('server_version')").fetchone() or ("",)
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {
        "postgresql": version,
        "python": platform.python_version(),
        "cpu": cpu,
        "cores": os.cpu_count() or 0,
        "system": platform.platform(terse=True),
    }


def table(figures: list[Figure], about: dict[str, str | int]) -> Table:
    caption = ", ".join(f"{name} {value}" for name, value in about.items())
    shown = Table(title="pgq beside the raw driver (medians)", caption=caption, title_justify="left")
    shown.add_column("benchmark", no_wrap=True)
    shown.add_column("case", no_wrap=True)
    for heading in ("pgq", "raw", "ratio", "target", "rounds"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("unit", no_wrap=True)
    shown.add_column("note")
    for figure in figures:
        style = {True: "green", False: "red", None: None}[figure.met]
        shown.add_row(
            figure.benchmark,
            figure.case,
            f"{figure.ours:,.0f}",
            "" if figure.raw is None else f"{figure.raw:,.0f}",
            "" if figure.ratio is None else f"[{style}]{figure.ratio:.2f}[/]" if style else f"{figure.ratio:.2f}",
            "" if figure.target is None else f"{figure.target:.2f}",
            str(figure.rounds),
            figure.unit,
            figure.note,
        )
    return shown


def main() -> int:
    options = arguments()
    progress = Console(stderr=True)
    figures: list[Figure] = []
    with server(options.dsn) as dsn:
        about = machine(dsn)
        with progress.status("starting") as status:
            bench = Bench(
                dsn,
                find_binaries(),
                rounds=options.rounds,
                quick=options.quick,
                long=options.long,
                keys=options.keys,
                progress=status.update,
            )
            for name in options.only:
                for figure in BENCHMARKS[name](bench):
                    figures.append(figure)
                    if figure.ratio is not None:
                        progress.print(f"{figure.benchmark}: {figure.case}: {figure.ratio:.2f}")
            bench.loop.close()
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table(figures, about))
    if options.json:
        found = {"machine": about, "figures": [asdict(figure) for figure in figures]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if any(figure.met is False for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())
