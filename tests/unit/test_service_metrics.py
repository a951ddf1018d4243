"""The catalogue of what the service measures keeps to what Prometheus and its users expect of names."""

from __future__ import annotations

import re

import pytest

from pgq.telemetry import PRODUCER_METRICS, SERVICE_METRICS, Metric

UNITS = {"seconds": "_seconds", "bytes": "_bytes"}
"""Units that a name says, by Prometheus's rules: https://prometheus.io/docs/practices/naming/."""


@pytest.mark.parametrize("metric", SERVICE_METRICS, ids=lambda metric: metric.name)
def test_names_labels_and_units(metric: Metric) -> None:
    assert re.fullmatch(r"pgq(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.description.endswith(".")
    assert all(re.fullmatch(r"[a-z]+", label) for label in metric.labels)
    stem = metric.name.removesuffix("_total")
    assert [unit for unit, end in UNITS.items() if stem.endswith(end)] == [metric.unit] * (metric.unit in UNITS)


def test_a_name_stands_there_once() -> None:
    names = [metric.name for metric in (*SERVICE_METRICS, *PRODUCER_METRICS)]
    assert len(set(names)) == len(names)
