"""Sub-keys of a key that is too hot for one partition: the key with a salt at its end."""

from __future__ import annotations

import random
import re
from typing import AnyStr

from pgq import errors
from pgq.core.partitioner import Partitioner, partition_for_key

_MOST_SUB_KEYS = 1_000  # a topic has no more partitions
_MOST_SALTS = 1_000_000
_SALT_OF_BYTES = re.compile(rb"#salt=(0|[1-9][0-9]{0,8})\Z")
_SALT_OF_STR = re.compile(r"#salt=(0|[1-9][0-9]{0,8})\Z")


def compound_key(key: AnyStr, n: int, salt: int | None = None) -> AnyStr:
    """Return one of the n sub-keys of a key: the key and "#salt=" with a number below n.

    Records of one sub-key stay in order; those of different ones have none among them. pgq.compound_key in SQL
    returns the same.

    Parameters:
        n: how many sub-keys there are, 1 to 1,000.
        salt: which: its remainder by n. The same salt gives the same sub-key. None: any.

    Raises:
        InvalidRequestError: n is out of range.
    """
    _check(n)
    return _salted(key, random.randrange(n) if salt is None else salt % n)


def compound_keys(
    key: AnyStr, n: int, partitions: int | None = None, partitioner: str | Partitioner = "murmur2"
) -> list[AnyStr]:
    """Return the n sub-keys of a key: all that `compound_key` makes, or n that go to n different partitions.

    pgq.compound_keys in SQL returns the same.

    Parameters:
        key: a str is stored as UTF-8.
        n: how many, 1 to 1,000.
        partitions: None: the sub-keys with the salts 0 to n - 1, of which some share a partition. Else how many the
            topic has: the sub-keys with the lowest salts that go to different ones.
        partitioner: the producers'.

    Raises:
        InvalidRequestError: n is out of range or over partitions; or the partitioner does not reach n partitions.
    """
    _check(n)
    if partitions is None:
        return [_salted(key, salt) for salt in range(n)]
    if n > partitions:
        raise errors.InvalidRequestError(
            f"{n} sub-keys cannot go to {partitions} different partitions: give an n of at most {partitions}"
        )
    found: dict[int, AnyStr] = {}
    for salt in range(_MOST_SALTS):
        sub_key = _salted(key, salt)
        stored = sub_key.encode() if isinstance(sub_key, str) else sub_key
        found.setdefault(partition_for_key(stored, partitions, partitioner), sub_key)
        if len(found) == n:
            return list(found.values())
    raise errors.InvalidRequestError(
        f"the partitioner sends {_MOST_SALTS:,} sub-keys to {len(found)} partitions, not {n}: give a smaller n"
    )


def split_compound_key(key: AnyStr) -> tuple[AnyStr, int | None]:
    """Return a key without its salt, and the salt. Any other key is returned as it is, with None."""
    found = _SALT_OF_STR.search(key) if isinstance(key, str) else _SALT_OF_BYTES.search(key)
    return (key, None) if found is None else (key[: found.start()], int(found[1]))


def _check(n: int) -> None:
    if not 1 <= n <= _MOST_SUB_KEYS:
        raise errors.InvalidRequestError(
            f"cannot spread a key over {n} sub-keys: give 1 to {_MOST_SUB_KEYS:,},"
            " at most as many as the topic has partitions"
        )


def _salted(key: AnyStr, salt: int) -> AnyStr:
    return key + f"#salt={salt}" if isinstance(key, str) else key + b"#salt=%d" % salt
