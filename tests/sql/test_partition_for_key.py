"""pgq.murmur2, pgq.crc32 and pgq.partition_for_key are Kafka's and librdkafka's, and the same as the clients'."""

from __future__ import annotations

import random
import zlib

import pytest

from pgq import errors
from pgq.core.partitioner import murmur2, partition_for_key
from tests.plugins.sessions import Connection, call, refused, rows, value

PARTITIONERS = ("murmur2", "crc32")
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


# sources: the check value of CRC-32/ISO-HDLC; zlib; librdkafka, tests/0048-partitioner.c
@pytest.mark.parametrize(
    "key, expected",
    [
        (b"", 0),
        (b"123456789", 0xCBF43926),
        (b"a", 0xE8B7BE43),
        (b"The quick brown fox jumps over the lazy dog", 0x414FA339),
        (b"23456", 0xB1B451D7),
        (b"this is another string with more length to it perhaps", 0xB0150DF7),
        (b"hejsan", 0xD077037E),
        (bytes(32), 0x190A55AD),
        (b"\xff" * 32, 0xFF6CAB0B),
    ],
)
def test_crc32_of_published_vectors(conn: Connection, key: bytes, expected: int) -> None:
    assert value(conn, "select pgq.crc32(%b)", key) == expected == zlib.crc32(key)


def test_crc32_is_zlibs(conn: Connection) -> None:
    keys = [*KEYS, *(bytes([byte]) for byte in range(256)), RANDOM.randbytes(100_000)]
    found = rows(conn, "select pgq.crc32(k) from unnest(%s::bytea[]) with ordinality k(k, n) order by n", keys)
    assert [crc for (crc,) in found] == [zlib.crc32(key) for key in keys]


@pytest.mark.parametrize("partitioner", PARTITIONERS)
def test_partition_is_the_clients(conn: Connection, partitioner: str) -> None:
    for partitions in (1, 2, 7, 50, 1000):
        chosen = rows(
            conn,
            "select pgq.partition_for_key(k, %s, %s) from unnest(%s::bytea[]) with ordinality k(k, n) order by n",
            partitions,
            partitioner,
            KEYS,
        )
        assert [p for (p,) in chosen] == [partition_for_key(key, partitions, partitioner) for key in KEYS]


def test_murmur2_is_the_default(conn: Connection) -> None:
    assert value(
        conn,
        "select bool_and(pgq.partition_for_key(k, 12) = pgq.partition_for_key(k, 12, 'murmur2'))"
        "   and bool_or(pgq.partition_for_key(k, 12) <> pgq.partition_for_key(k, 12, 'crc32'))"
        "  from unnest(%s::bytea[]) k",
        KEYS,
    )


def test_null_key_has_none(conn: Connection) -> None:
    assert value(conn, "select pgq.murmur2(null)") is None
    assert value(conn, "select pgq.crc32(null)") is None
    assert value(conn, "select pgq.partition_for_key(null, 5)") is None
    assert value(conn, "select pgq.partition_for_key(null, 5, 'crc32')") is None


@pytest.mark.parametrize("unknown", ["random", "", "CRC32", None])
def test_unknown_partitioner_is_refused(conn: Connection, unknown: str | None) -> None:
    with refused(errors.InvalidRequestError.sqlstate):
        conn.execute("select pgq.partition_for_key('key', 5, %s)", [unknown])
    with refused(errors.InvalidRequestError.sqlstate):
        conn.execute("select pgq.partition_for_key('key', 5, p) from unnest(%s::text[]) p", [[unknown]])


def test_the_planner_sees_through_it(conn: Connection) -> None:
    """A call costs what the hash costs: the choice is made when the caller's statement is planned."""
    for partitioner, hashed in zip(PARTITIONERS, ("murmur2", "crc32"), strict=True):
        plan = rows(
            conn,
            f"explain (verbose, costs off) select pgq.partition_for_key(k, 12, '{partitioner}')"
            " from unnest(null::bytea[]) k",
        )
        text = "\n".join(line for (line,) in plan)
        assert f"pgq.{hashed}(k)" in text
        assert "partition_for_key" not in text
        assert "CASE" not in text


def test_sql_producers_choose_a_partitioner_by_the_partition(conn: Connection) -> None:
    call(conn, "create_topic", name="wide", partitions=12)
    found = rows(
        conn,
        "select k, p.partition from unnest(%s::bytea[]) k,"
        " pgq.produce('wide', 'v', key => k, partition => pgq.partition_for_key(k, 12, 'crc32')) p",
        KEYS[:50],
    )
    assert found == [(key, zlib.crc32(key) % 12) for key in KEYS[:50]]
