"""Run histories of many seeds on a server of its own.

    python -m tests.histories --seconds 60 --seeds 20 [--bin-dir …/bin]

Prints a line a seed and exits with 1 if one of them holds an anomaly, a reader that stalled or an error that the
faults do not explain.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import pathlib
import sys
import tempfile
import time

import psycopg

from pgq import schema
from pgq.embedded import EmbeddedServer

from .workload import READERS, Result, Settings, execute

SERVER_SETTINGS = {"max_prepared_transactions": "64", "max_connections": "100"}


def main() -> int:
    """Run what the command line says; return the exit code."""
    arguments = _parse()
    logging.getLogger("pgq").setLevel(logging.CRITICAL)  # producers log every batch that a fault cost them
    failed = 0
    with (
        tempfile.TemporaryDirectory(prefix="pgq-histories-", ignore_cleanup_errors=True) as directory,
        EmbeddedServer(pathlib.Path(directory) / "data", bin_dir=arguments.bin_dir, settings=SERVER_SETTINGS) as server,
    ):
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("create database histories")
        schema.upgrade(server.dsn("histories"))
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            started = time.monotonic()
            result = execute(server, "histories", _settings(arguments, seed))
            verdict = "ok  " if result.passed else "FAIL"
            took = f"{time.monotonic() - started:.0f} s"
            print(f"{verdict} seed {seed} PostgreSQL {server.version} {took}: {result.summary()}", flush=True)
            if arguments.verbose or not result.passed:
                print("     errors: " + ", ".join(f"{name} {n}" for name, n in result.errors.most_common()), flush=True)
            if not result.passed:
                failed += 1
                _show(result, arguments.save, seed)
    return 1 if failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.histories", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="how long producers work in each run")
    parser.add_argument("--seeds", type=int, default=20, help="how many runs")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--crashes", type=int, default=None, help="server kills a run (default: 1, or 2 in odd seeds)")
    parser.add_argument("--bin-dir", help="folder of initdb and postgres")
    parser.add_argument("--readers", help=f"comma-separated, of {', '.join(READERS)}")
    parser.add_argument("--producers", help="which kinds and how many, for example sql=6,client=2; the others none")
    parser.add_argument("--save", type=pathlib.Path, help="folder for the histories of runs that fail")
    parser.add_argument("--verbose", action="store_true", help="show the errors that producers and readers met")
    return parser.parse_args()


def _settings(arguments: argparse.Namespace, seed: int) -> Settings:
    crashes = 1 + seed % 2 if arguments.crashes is None else arguments.crashes
    # wide enough for a few hundred segments a partition, however long the run is
    scale = max(1, round(arguments.seconds / 8))
    settings = Settings(
        seed,
        seconds=arguments.seconds,
        crashes=crashes,
        segment_width=Settings.segment_width * scale,
        segment_bytes=Settings.segment_bytes * scale,
    )
    if arguments.readers:
        settings = dataclasses.replace(settings, readers=tuple(arguments.readers.split(",")))
    if arguments.producers is not None:
        kinds = dict.fromkeys(("sql", "asynchronous_sql", "client", "joined", "aclient", "children"), 0)
        kinds |= {
            name: int(count) for name, _, count in (part.partition("=") for part in arguments.producers.split(","))
        }
        settings = dataclasses.replace(settings, **{**dataclasses.asdict(settings), **kinds})
    return settings


def _show(result: Result, folder: pathlib.Path | None, seed: int) -> None:
    for anomaly in result.report.anomalies[:5]:
        print(f"     {anomaly}")
    for detail in sorted(set(result.unexpected))[:10]:
        print(f"     {detail}")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [repr(event) for event in (*result.events, result.truth)]
        (folder / f"seed-{seed}.txt").write_text("\n".join(lines) + "\n")
        (folder / f"seed-{seed}.json").write_text(json.dumps([str(a) for a in result.report.anomalies], indent=1))


if __name__ == "__main__":
    sys.exit(main())
