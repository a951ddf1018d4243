"""How long to wait before the same thing is tried again. Pure: the randomness is passed in."""

from __future__ import annotations

_JITTER = 0.2


def backoff_s(failures: int, first_s: float, most_s: float, random: float) -> float:
    """Return the seconds to wait after so many failures in a row: doubled each time up to `most_s`, give or take 20 %.

    Args:
        random: from 0 to 1, uniform; so that clients that failed together do not come back together.

    Source: Kafka, retry.backoff.ms and retry.backoff.max.ms (KIP-580).
    """
    wait_s: float = min(first_s * 2.0 ** min(failures - 1, 30), most_s)
    return wait_s * (1 - _JITTER + 2 * _JITTER * random)
