"""Tell when another distribution brings a package `pgq`, too: Skytools' client for PgQ does, and is named so.

pip lets both in. It writes the files of one name twice, and removes them with whichever is uninstalled. This module
imports nothing of pgq, so that it can be run by its path where `import pgq` fails.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

__all__ = ["clash"]

_PACKAGE = Path(__file__).resolve().parents[1]
_INIT = "pgq/__init__.py"


def clash() -> str | None:
    """Say in one paragraph what is wrong with this installation and what to do; None if nothing is.

    Looks at the metadata of the two distributions and at the files that both have. Takes about a millisecond where only
    pgq-log is installed.
    """
    ours, theirs = _find("pgq-log"), _find("pgq")
    reinstall = f"`pip install --force-reinstall --no-deps pgq-log{f'=={ours.version}' if ours else ''}`"
    if theirs is None:
        if (_PACKAGE / "__init__.py").exists():
            return None
        return f"{_INIT} of pgq-log is missing: another distribution took it along when it went. Run {reinstall}."
    name = f"Another distribution, pgq {theirs.version} (Skytools' PgQ client has that name),"
    remedy = f"Run `pip uninstall pgq`, then {reinstall}; or give each of the two an environment of its own."
    if Path(str(theirs.locate_file(_INIT))).resolve().parent != _PACKAGE:  # such as a checkout beside it
        return None if _is_found_first() else f"{name} is found before pgq-log by `import pgq`. {remedy}"
    shared = _shared(ours, theirs)
    if lost := [file for file in shared if not _is_intact(ours, file)]:
        return f"{name} has overwritten files of pgq-log ({', '.join(lost)}): `import pgq` is not pgq-log. {remedy}"
    return (
        f"{name} has files of the same names as pgq-log ({', '.join(shared)}). Those of pgq-log are there now, so the"
        f" other does not work; if it is uninstalled, they go with it. {remedy}"
    )


def _find(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _is_found_first() -> bool:
    spec = find_spec("pgq")
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve().parent == _PACKAGE


def _shared(ours: Distribution | None, theirs: Distribution) -> list[str]:
    """The files that both claim; at least the one that both must have."""
    both = {str(file) for file in (ours and ours.files) or ()} & {str(file) for file in theirs.files or ()}
    return sorted(file for file in both if not file.endswith(".pyc")) or [_INIT]


def _is_intact(ours: Distribution | None, name: str) -> bool:
    """Whether a file is the one that came with pgq-log, by the hash that the installer has kept."""
    for file in (ours and ours.files) or ():
        if str(file) == name and file.hash is not None:
            try:
                content = Path(str(file.locate())).read_bytes()
            except FileNotFoundError:
                return False
            digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, content).digest())
            return digest.rstrip(b"=").decode() == file.hash.value
    return True
