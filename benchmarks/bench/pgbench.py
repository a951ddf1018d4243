"""Run the pgbench that lies beside the server's own programs."""

import re
import subprocess
import tempfile
from pathlib import Path

from .harness import Bench

CLIENTS = 64


def start(
    bench: Bench, scripts: dict[str, int], *, mode: str, seconds: int, folder: str, clients: int = CLIENTS
) -> subprocess.Popen[str]:
    """Start pgbench with these scripts and their weights; `folder` is for the script files."""
    command = [str(bench.bin_dir / "pgbench"), "-n", "-M", mode, "-c", str(clients), "-j", "2", "-T", str(seconds)]
    for number, (script, weight) in enumerate(scripts.items()):
        path = Path(folder) / f"{number}.pgbench"
        path.write_text(script)
        command += ["-f", f"{path}@{weight}"]
    return subprocess.Popen([*command, bench.dsn], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> float:
    """Wait for the end; return transactions per second, without the time to connect."""
    output, errors = process.communicate()
    rate = re.search(r"^tps = ([0-9.]+)", output, re.MULTILINE)
    if process.returncode or rate is None:
        raise RuntimeError(f"pgbench failed: {errors.strip()[-2000:]}")
    return float(rate.group(1))


def rate(bench: Bench, script: str, *, mode: str, seconds: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return finish(start(bench, {script: 1}, mode=mode, seconds=seconds, folder=folder))
