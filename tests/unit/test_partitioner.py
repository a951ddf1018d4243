"""The partitioner spreads keys as Kafka's Java client does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgq import errors
from pgq.core.partitioner import check_partition, murmur2, partition_for_key


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


@given(st.binary(max_size=64), st.integers(min_value=1, max_value=1000))
def test_every_key_has_a_partition(key: bytes, partitions: int) -> None:
    assert -(2**31) <= murmur2(key) < 2**31
    assert 0 <= partition_for_key(key, partitions) < partitions


@pytest.mark.parametrize("partition", [0, 2])
def test_existing_partition_is_accepted(partition: int) -> None:
    assert check_partition("t", partition, 3) == partition


@pytest.mark.parametrize("partition", [-1, 3, 2**40, "0", 1.0])
def test_other_partition_is_refused(partition: object) -> None:
    with pytest.raises(errors.UnknownPartitionError, match="partitions 0 to 2"):
        check_partition("t", partition, 3)
