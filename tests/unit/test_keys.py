"""Sub-keys of hot keys: made, enumerated, split."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgq import compound_key, compound_keys, errors, partition_for_key, split_compound_key

KEYS = st.one_of(
    st.binary(max_size=20), st.text(max_size=20), st.sampled_from([b"a#salt=1", "a#salt=1", b"#salt=", b"#"])
)


def test_what_a_sub_key_is() -> None:
    assert compound_key(b"ad-1", 4, salt=2) == b"ad-1#salt=2"
    assert compound_key("ad-1", 4, salt=7) == "ad-1#salt=3"
    assert compound_key(b"ad-1", 4, salt=-1) == b"ad-1#salt=3"
    assert compound_keys(b"ad-1", 3) == [b"ad-1#salt=0", b"ad-1#salt=1", b"ad-1#salt=2"]


@given(KEYS, st.integers(1, 1000), st.integers())
def test_a_sub_key_is_one_of_all_and_split_again(key: Any, n: int, salt: int) -> None:
    sub_key = compound_key(key, n, salt)
    assert sub_key in compound_keys(key, n)
    assert split_compound_key(sub_key) == (key, salt % n)
    assert split_compound_key(compound_key(key, n))[0] == key


def test_without_a_salt_every_sub_key_is_used() -> None:
    assert {compound_key(b"k", 3) for _ in range(300)} == set(compound_keys(b"k", 3))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "ad-1",
        "a#salt=",
        "a#salt=01",
        "a#salt=1 ",
        "a#salt=1\n",
        "a#salt=-1",
        "a#salt=1234567890",
        "a#salt=¹",
        "a#salt=٣",
    ],
)
def test_any_other_key_is_left_as_it_is(key: str) -> None:
    assert split_compound_key(key) == (key, None)
    assert split_compound_key(key.encode()) == (key.encode(), None)


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
@pytest.mark.parametrize("partitions", [1, 2, 7, 12, 50, 512, 1000])
def test_sub_keys_of_different_partitions(partitioner: str, partitions: int) -> None:
    for n in {1, partitions // 2 or 1, partitions}:
        found = compound_keys("ad-ü", n, partitions, partitioner)
        assert len({partition_for_key(k.encode(), partitions, partitioner) for k in found}) == len(found) == n
        assert {split_compound_key(k)[0] for k in found} == {"ad-ü"}
        salts = [split_compound_key(k)[1] for k in found]
        assert salts == sorted(salts)  # type: ignore[type-var]
        assert found == [k.decode() for k in compound_keys("ad-ü".encode(), n, partitions, partitioner)]


def test_sub_keys_share_partitions_unless_chosen() -> None:
    """12 sub-keys go to 12 (1 - (11/12)^12) = 7.8 of 12 partitions on average."""
    used = [len({partition_for_key(k, 12) for k in compound_keys(b"key-%d" % i, 12)}) for i in range(2000)]
    assert sum(used) / len(used) == pytest.approx(12 * (1 - (11 / 12) ** 12), abs=0.1)


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_a_number_of_sub_keys_out_of_range_is_refused(n: int) -> None:
    for function in (compound_key, compound_keys):
        with pytest.raises(errors.InvalidRequestError, match="1 to 1,000"):
            function(b"key", n)


def test_more_sub_keys_than_partitions_are_refused() -> None:
    with pytest.raises(errors.InvalidRequestError, match="at most 2"):
        compound_keys(b"key", 3, 2)


def test_a_partitioner_that_does_not_reach_so_many_partitions_is_told_so() -> None:
    with pytest.raises(errors.InvalidRequestError, match="to 1 partitions, not 2"):
        compound_keys(b"key", 2, 3, lambda _key, _partitions: 1)
