"""Which partition a record goes to: the one named, else by the key's hash, else one for all that wait together."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from zlib import crc32

from pgq import errors

Partitioner = Callable[[bytes, int], int]
"""From a key and the number of partitions to a partition."""


def murmur2(key: bytes) -> int:
    """Return the hash by which Kafka's Java client spreads keys, as a signed 32-bit integer.

    Source: the 32-bit variant of Austin Appleby's MurmurHash2 with seed 0x9747b28c.
    """
    multiplier, mask, length = 0x5BD1E995, 0xFFFFFFFF, len(key)
    result = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = (int.from_bytes(key[i : i + 4], "little") * multiplier) & mask
        k = ((k ^ (k >> 24)) * multiplier) & mask
        result = ((result * multiplier) & mask) ^ k
    if whole < length:
        result = ((result ^ int.from_bytes(key[whole:], "little")) * multiplier) & mask
    result = ((result ^ (result >> 13)) * multiplier) & mask
    result ^= result >> 15
    return result - 0x1_0000_0000 if result & 0x8000_0000 else result


def _by_murmur2(key: bytes, partitions: int) -> int:
    return (murmur2(key) & 0x7FFF_FFFF) % partitions


def _by_crc32(key: bytes, partitions: int) -> int:
    return crc32(key) % partitions


SHORT_KEY = 64

_BY_NAME: dict[str, tuple[Partitioner, Partitioner]] = {
    # short keys are remembered, so that hot ones cost nothing
    "murmur2": (lru_cache(maxsize=65_536)(_by_murmur2), _by_murmur2),
    "crc32": (_by_crc32, _by_crc32),
}


def choose_partitioner(given: str | Partitioner) -> tuple[Partitioner, Partitioner]:
    """Return what finds the partition of a key of up to SHORT_KEY bytes, and of a longer one.

    Parameters:
        given: "murmur2", Kafka's Java client's; "crc32", librdkafka's `consistent`; or a function of a key and the
            number of partitions, whose results are checked.

    Raises:
        InvalidRequestError: it is none of these. What is returned raises it when the given function returns
            something else than one of the partitions.
    """
    if isinstance(given, str) and given in _BY_NAME:
        return _BY_NAME[given]
    if not callable(given):
        raise errors.InvalidRequestError(
            f"unknown partitioner {given!r}: give 'murmur2', 'crc32', or a function of key and number of partitions"
        )

    def checked(key: bytes, partitions: int) -> int:
        partition = given(key, partitions)
        if not isinstance(partition, int) or not 0 <= partition < partitions:
            raise errors.InvalidRequestError(
                f"the partitioner returned {partition!r} for the key {key[:64]!r}: let it return 0 to {partitions - 1}"
            )
        return partition

    return checked, checked


def partition_for_key(key: bytes, partitions: int, partitioner: str | Partitioner = "murmur2") -> int:
    """Return the partition that a key goes to, as the producers with that partitioner and pgq.partition_for_key in SQL.

    Parameters:
        key: as it is stored.
        partitions: how many the topic has.
        partitioner: "murmur2", "crc32" or a function, as for the producer.

    Raises:
        InvalidRequestError: there are no partitions, or no such partitioner.
    """
    if partitions < 1:
        raise errors.InvalidRequestError(f"{partitions} partitions: a topic has at least one")
    return choose_partitioner(partitioner)[1](key, partitions)


def check_partition(topic: str, partition: int, partitions: int) -> int:
    """Return the partition if the topic has it.

    Raises:
        UnknownPartitionError: it has not.
    """
    if not isinstance(partition, int) or not 0 <= partition < partitions:
        raise errors.UnknownPartitionError(
            f"unknown partition {partition} of topic {topic!r}: it has partitions 0 to {partitions - 1}"
        )
    return partition
