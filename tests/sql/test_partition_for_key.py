"""pgq.murmur2 and pgq.partition_for_key are Kafka's, and the same as the clients'."""

from __future__ import annotations

import random

from pgq.core.partitioner import murmur2, partition_for_key
from tests.plugins.sessions import Connection, rows, value

RANDOM = random.Random(20240229)
KEYS = [RANDOM.randbytes(length % 41) for length in range(1000)] + [b"\xff" * n for n in range(10)] + [bytes(300)]


def test_murmur2_of_kafkas_own_vectors(conn: Connection) -> None:
    keys = ["21", "foobar", "a-little-bit-long-string", "a-little-bit-longer-string", "abc"]
    keys.append("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8")
    assert rows(conn, "select pgq.murmur2(k::bytea) from unnest(%s::text[]) k", keys) == [
        (-973932308,),
        (-790332482,),
        (-985981536,),
        (-1486304829,),
        (479470107,),
        (-58897971,),
    ]


def test_murmur2_is_the_clients(conn: Connection) -> None:
    hashes = [
        h
        for (h,) in rows(
            conn, "select pgq.murmur2(k) from unnest(%s::bytea[]) with ordinality k(k, n) order by n", KEYS
        )
    ]
    assert hashes == [murmur2(key) for key in KEYS]


def test_partition_is_the_clients(conn: Connection) -> None:
    for partitions in (1, 2, 7, 50, 1000):
        chosen = rows(
            conn,
            "select pgq.partition_for_key(k, %s) from unnest(%s::bytea[]) with ordinality k(k, n) order by n",
            partitions,
            KEYS,
        )
        assert [p for (p,) in chosen] == [partition_for_key(key, partitions) for key in KEYS]


def test_null_key_has_none(conn: Connection) -> None:
    assert value(conn, "select pgq.murmur2(null)") is None
    assert value(conn, "select pgq.partition_for_key(null, 5)") is None
