"""Which partition a record goes to: the one named, else by the key's hash, else one for all that wait together."""

from __future__ import annotations

from functools import lru_cache

from pgq import errors


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


def partition_for_key(key: bytes, partitions: int) -> int:
    """Return the partition of a key: as Kafka's Java client, and as pgq.partition_for_key in SQL."""
    return (murmur2(key) & 0x7FFF_FFFF) % partitions


partition_for_short_key = lru_cache(maxsize=65_536)(partition_for_key)
"""The same for keys of up to SHORT_KEY bytes: remembered, so that hot keys cost nothing."""

SHORT_KEY = 64


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
