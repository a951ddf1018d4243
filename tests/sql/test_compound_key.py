"""Sub-keys of hot keys in SQL: the same as in Python, and read back by their key."""

from __future__ import annotations

import random

import pytest

from pgq import compound_key, compound_keys, errors, partition_for_key, split_compound_key
from tests.plugins.sessions import Connection, call, refused, rows, value

RANDOM = random.Random(20240229)
KEYS = [RANDOM.randbytes(length % 31) for length in range(300)] + [b"a#salt=1", b"\\", b"a\\#salt=", b"", b"#salt=7"]
OTHER_KEYS = [
    b"",
    b"#",
    b"a#salt=",
    b"a#salt=01",
    b"a#salt=1 ",
    b"a#salt=1\n",
    b"a#salt=-1",
    b"a#salt=1234567890",
    "a#salt=٣".encode(),
    b"a#salt=\xff1",
    b"\xff#sal\x00t=1",
]


def test_a_sub_key_is_that_of_python(conn: Connection) -> None:
    salts = [RANDOM.randrange(-(2**63), 2**63) for _ in KEYS[4:]] + [-(2**63), 2**63 - 1, 0, -1]
    ns = [RANDOM.randint(1, 1000) for _ in KEYS]
    found = rows(
        conn,
        "select pgq.compound_key(k, n, s) from unnest(%s::bytea[], %s::int[], %s::bigint[])"
        " with ordinality as w (k, n, s, i) order by i",
        KEYS,
        ns,
        salts,
    )
    assert [sub_key for (sub_key,) in found] == list(map(compound_key, KEYS, ns, salts))


def test_splitting_is_that_of_python(conn: Connection) -> None:
    given = [compound_key(key, 1000) for key in KEYS] + KEYS + OTHER_KEYS
    found = rows(
        conn,
        "select s.key, s.salt from unnest(%s::bytea[]) with ordinality as w (k, i),"
        " pgq.split_compound_key(k) s order by i",
        given,
    )
    assert found == [split_compound_key(key) for key in given]
    assert found[: len(KEYS)] != found[len(KEYS) : 2 * len(KEYS)]


def test_without_a_salt_every_sub_key_is_used(conn: Connection) -> None:
    found = rows(conn, "select distinct pgq.compound_key('k', 3) from generate_series(1, 300)")
    assert {sub_key for (sub_key,) in found} == set(compound_keys(b"k", 3))


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
def test_all_sub_keys_are_those_of_python(conn: Connection, partitioner: str) -> None:
    for n, partitions in ((1, None), (12, None), (1000, None), (1, 1), (5, 12), (12, 12), (50, 50), (300, 1000)):
        found = call(conn, "compound_keys", key=b"ad-\xff", n=n, partitions=partitions, partitioner=partitioner)
        assert [sub_key for (sub_key,) in found] == compound_keys(b"ad-\xff", n, partitions, partitioner)


def test_null_key_has_none(conn: Connection) -> None:
    assert value(conn, "select pgq.compound_key(null, 5)") is None
    assert rows(conn, "select pgq.compound_keys(null, 5)") == []
    assert rows(conn, "select pgq.compound_keys(null, 5, 12)") == []
    assert rows(conn, "select key, salt from pgq.split_compound_key(null)") == [(None, None)]


@pytest.mark.parametrize("n", [0, -1, 1001, None])
def test_a_number_of_sub_keys_out_of_range_is_refused(conn: Connection, n: int | None) -> None:
    for function in ("compound_key", "compound_keys"):
        with refused(errors.InvalidRequestError.sqlstate):
            call(conn, function, key=b"key", n=n)


def test_more_sub_keys_than_partitions_are_refused(conn: Connection) -> None:
    with refused(errors.InvalidRequestError.sqlstate):
        conn.execute("select pgq.compound_keys('key', 3, 2)")
    with refused(errors.InvalidRequestError.sqlstate):
        conn.execute("select pgq.compound_keys('key', 3, 12, 'random')")


def test_a_hot_key_is_spread_and_read_back(conn: Connection) -> None:
    call(conn, "create_topic", name="clicks", partitions=6)
    sub_keys = compound_keys(b"ad-1", 6, 6)
    for number in range(60):
        call(conn, "produce", topic="clicks", value=b"1", key=sub_keys[number % 6])
    assert float(value(conn, "select skew from pgq.topic_status")) == 1
    for number in range(12):
        call(conn, "produce", topic="clicks", value=b"1", key=b"ad-%d" % (number + 2))
    for key in sub_keys:
        found = rows(conn, "select distinct partition from pgq_topic.clicks where key_bytes = %b", key)
        assert found == [(partition_for_key(key, 6),)]
    found = rows(
        conn,
        "select convert_from(s.key, 'UTF8'), count(*) from pgq_topic.clicks c, pgq.split_compound_key(c.key_bytes) s"
        " group by s.key order by s.key",
    )
    assert found == sorted([("ad-1", 60)] + [(f"ad-{number + 2}", 1) for number in range(12)])
