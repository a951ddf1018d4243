"""Finds alembic/ and sql/: inside the package when installed from a wheel, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def _folder(packaged: str, checkout: str) -> Path:
    for folder in (_PACKAGE / packaged, _PACKAGE.parent / checkout):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"pgq is installed without its {checkout}/ folder: install pgq-log again")


def alembic_folder() -> Path:
    """Return the folder of the Alembic environment."""
    return _folder("_alembic", "alembic")


def sql_folder() -> Path:
    """Return the folder of the functions, views and grants."""
    return _folder("_sql", "sql")


def function_files() -> list[Path]:
    """Return the files that are applied after the migrations, in order."""
    root = sql_folder()
    return [f for kind in ("functions", "views", "grants") for f in sorted((root / kind).rglob("*.sql"))]
