"""Single record a transaction: pgq.produce, 64 connections, one partition, against a bare INSERT. Both by pgbench."""

from collections.abc import Iterator

from . import pgbench
from .harness import Bench, Figure, Round, compare, size

TARGET = 0.65
CREATE_BARE = """
    create table pgq_bench.bare ("offset" bigint generated always as identity primary key,
        "timestamp" timestamptz not null, key bytea, value bytea)
"""


def run(bench: Bench) -> Iterator[Figure]:
    seconds = 2 if bench.quick else 4
    for value_bytes in (100,) if bench.quick else (100, 1000):
        value = f"'{'a' * value_bytes}'::bytea"
        produce = f"select * from pgq.produce('bench_produce', {value});\n"
        insert = f'insert into pgq_bench.bare ("timestamp", key, value) values (now(), null, {value});\n'
        for mode in ("prepared", "simple"):
            case = f"-M {mode}, 1 partition, {size(value_bytes)}"
            bench.progress(f"produce: {case}")
            with bench.topic("bench_produce"), bench.bare(CREATE_BARE):
                bench.settle()
                found = compare(
                    bench.rounds,
                    lambda: Round(pgbench.rate(bench, produce, mode=mode, seconds=seconds)),  # noqa: B023
                    lambda: Round(pgbench.rate(bench, insert, mode=mode, seconds=seconds)),  # noqa: B023
                )
            note = f"{pgbench.CLIENTS} connections"
            yield Figure(
                "produce", case, found.ours, found.raw, "transactions/s", found.ratio, TARGET, bench.rounds, note
            )
