"""Short histories under faults, judged by the checker; `python -m tests.histories` runs longer ones and more seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .workload import Settings, execute

if TYPE_CHECKING:
    from pgq.embedded import EmbeddedServer


@pytest.mark.slow
@pytest.mark.usefixtures("own_dsn")
@pytest.mark.parametrize("seed, crashes", [(1, 0), (2, 1)], ids=["server stays up", "server is killed"])
def test_history(own_server: EmbeddedServer, seed: int, crashes: int) -> None:
    """Whatever happens to producers and server, readers get every committed record once, in order, and no other."""
    result = execute(own_server, "postgres", Settings(seed, seconds=8, crashes=crashes))
    details = [str(anomaly) for anomaly in result.report.anomalies[:10]] + sorted(set(result.unexpected))[:10]
    assert result.passed, "\n".join([result.summary(), *details])
    assert result.report.ok > 500, result.summary()
