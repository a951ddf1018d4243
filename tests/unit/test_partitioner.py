"""The partitioners spread keys as Kafka's Java client and librdkafka do, or as a function says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgq import errors
from pgq.core.partitioner import SHORT_KEY, check_partition, choose_partitioner, murmur2, partition_for_key


# source: Kafka, clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2
@pytest.mark.parametrize(
    "key, expected",
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_of_kafkas_own_vectors(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected


# source: librdkafka, tests/0048-partitioner.c: what the key hashes to, with 17 partitions there
@pytest.mark.parametrize(
    "key, crc, murmur",
    [
        (b"", 0, 0x106E08D9),
        (b"23456", 0xB1B451D7, 0x058D780F),
        (b"this is another string with more length to it perhaps", 0xB0150DF7, 0x4F7703DA),
        (b"hejsan", 0xD077037E, 0x5EC19395),
    ],
)
def test_partitions_of_librdkafkas_own_vectors(key: bytes, crc: int, murmur: int) -> None:
    for partitions in (1, 7, 17, 1000):
        assert partition_for_key(key, partitions, "crc32") == crc % partitions
        assert partition_for_key(key, partitions) == murmur % partitions


PARTITION_COUNTS = (4, 12, 17, 1000)

# What librdkafka 2.16.0 said: its functions rd_kafka_msg_partitioner_consistent and _murmur2, and, for 4 partitions,
# where its producer put records on its mock brokers with these partitioners, and "consistent_random" for all keys
# but the empty one, which that spreads.
LIBRDKAFKA = [
    (b"", [0, 0, 0, 0], [1, 9, 11, 681]),
    (b"21", [0, 4, 10, 532], [0, 0, 13, 340]),
    (b"foobar", [1, 5, 6, 69], [2, 6, 9, 166]),
    (b"23456", [3, 11, 7, 663], [3, 11, 9, 391]),
    (b"this is another string with more length to it perhaps", [3, 7, 15, 847], [2, 2, 11, 834]),
    (b"hejsan", [2, 6, 14, 606], [1, 1, 5, 533]),
    (b"123456789", [2, 2, 15, 262], [2, 6, 16, 566]),
    (b"ad-17", [2, 2, 15, 498], [3, 3, 9, 311]),
    (b"\xff\xfe\x00", [0, 4, 7, 780], [0, 4, 7, 764]),
    (b"customer-7", [0, 8, 12, 520], [3, 7, 3, 111]),
]


@pytest.mark.parametrize("key, by_crc32, by_murmur2", LIBRDKAFKA)
def test_partitions_are_those_of_librdkafka(key: bytes, by_crc32: list[int], by_murmur2: list[int]) -> None:
    assert [partition_for_key(key, n, "crc32") for n in PARTITION_COUNTS] == by_crc32
    assert [partition_for_key(key, n, "murmur2") for n in PARTITION_COUNTS] == by_murmur2


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
@given(st.binary(max_size=SHORT_KEY), st.integers(min_value=1, max_value=1000))
def test_every_key_has_a_partition(partitioner: str, key: bytes, partitions: int) -> None:
    assert -(2**31) <= murmur2(key) < 2**31
    for_short, for_any = choose_partitioner(partitioner)
    assert for_short(key, partitions) == for_any(key, partitions) == partition_for_key(key, partitions, partitioner)
    assert 0 <= for_any(key, partitions) < partitions


def test_a_function_partitions() -> None:
    def by_length(key: bytes, partitions: int) -> int:
        return len(key) % partitions

    for partition_of in (*choose_partitioner(by_length), lambda k, n: partition_for_key(k, n, by_length)):
        assert [partition_of(b"x" * length, 3) for length in range(5)] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("returned", [-1, 3, 2**40, 1.0, "1", None])
def test_a_function_that_returns_no_partition_is_told_so(returned: object) -> None:
    for partition_of in choose_partitioner(lambda _key, _partitions: returned):  # type: ignore[arg-type, return-value]
        with pytest.raises(errors.InvalidRequestError, match="let it return 0 to 2"):
            partition_of(b"key", 3)


@pytest.mark.parametrize("unknown", ["random", "", "MURMUR2", None, 3, ["murmur2"]])
def test_unknown_partitioner_is_refused(unknown: object) -> None:
    with pytest.raises(errors.InvalidRequestError, match="give 'murmur2', 'crc32', or a function"):
        choose_partitioner(unknown)  # type: ignore[arg-type]


def test_a_topic_without_partitions_is_refused() -> None:
    with pytest.raises(errors.InvalidRequestError, match="at least one"):
        partition_for_key(b"key", 0)


@pytest.mark.parametrize("partition", [0, 2])
def test_existing_partition_is_accepted(partition: int) -> None:
    assert check_partition("t", partition, 3) == partition


@pytest.mark.parametrize("partition", [-1, 3, 2**40, "0", 1.0])
def test_other_partition_is_refused(partition: object) -> None:
    with pytest.raises(errors.UnknownPartitionError, match="partitions 0 to 2"):
        check_partition("t", partition, 3)
