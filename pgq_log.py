"""Start the command `pgq`, or say why it cannot start: another distribution may have put its own pgq/__init__.py there.

It stands beside the package, since nothing inside of it can be imported then.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run the command line."""
    try:
        from pgq.cli import app
    except ImportError:
        found = runpy.run_path(str(Path(__file__).with_name("pgq") / "cli" / "clash.py"))
        if explanation := found["clash"]():
            sys.exit(explanation)
        raise
    app()
