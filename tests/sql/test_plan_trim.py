"""pgq._plan_trim works out what `pgq topic trim` would delete, and refuses what may mean something else."""

from __future__ import annotations

import pytest

from tests.plugins.sessions import Connection, refused, rows, value


@pytest.fixture(autouse=True)
def an_hour_each(conn: Connection, topic: str) -> None:
    """Ten records, the last one of now."""
    conn.execute(
        "select pgq.produce('orders', 'v', \"timestamp\" => clock_timestamp() - (10 - n) * interval '1 hour')"
        " from generate_series(1, 10) n"
    )


def new_log_start(conn: Connection, duration: str) -> int:
    result: int = value(
        conn, "select new_log_start_offset from pgq._plan_trim('orders', null, 'by-duration', %s)", duration
    )
    return result


@pytest.mark.parametrize(
    "duration, expected",
    [
        ("90m", 8),
        ("90 minutes", 8),
        ("5400s", 8),
        ("1h30m", 8),
        ("1.5h", 8),
        ("PT1H30M", 8),
        ("1H 30M", 8),
        ("1d", 0),
        ("P1W", 0),
        ("P1M", 0),
        ("0s", 10),
        ("PT0S", 10),
    ],
)
def test_duration(conn: Connection, duration: str, expected: int) -> None:
    assert new_log_start(conn, duration) == expected


@pytest.mark.parametrize(
    "duration", ["7", "0", "1.5", "7 8", "1:30", "7d 3", "-1d", "1d ago", "", "P", "P7", "P1DT", "PT-1H", "nan", "soon",
                 "infinity", "7x", "P100000000Y"],
)  # fmt: skip
def test_what_is_no_duration_with_units_is_refused(conn: Connection, duration: str) -> None:
    with refused("PQ023"):
        new_log_start(conn, duration)
    assert rows(conn, "select * from pgq.partition_status where log_start_offset > 0") == []
