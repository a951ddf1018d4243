"""`make demo`: two members share the flights, one is killed, and the sums agree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.usefixtures("bin_dir")
def test_the_demonstration() -> None:
    program = Path(__file__).parents[2] / "examples" / "flights.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed member-1; member-2 had its partitions" in done.stdout
    assert "The group and SQL agree: no flight was missed, none counted twice." in done.stdout
    assert done.stderr == ""
