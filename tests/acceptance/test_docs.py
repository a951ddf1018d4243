"""What the documentation says is true: its examples run, and its tables are those of the code.

Blocks of a page run in order, in one Python namespace, on a database of the page's own that PGQ_DSN names. Fences:
python; sql (through psql, as a reader would); console, of which lines `$ pgq …` run, but for `pgq dev`. Anything else,
such as sh and text, is for reading.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

import pgq
from pgq import errors
from pgq.cli.dev import dev
from pgq.config import Settings
from pgq.schema.files import sql_folder
from pgq.telemetry import PRODUCER_METRICS

ROOT = Path(pgq.__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial.md",
    ROOT / "docs" / "howto" / "consumer-groups.md",
    ROOT / "docs" / "howto" / "hot-keys.md",
    ROOT / "docs" / "howto" / "outbox.md",
    ROOT / "docs" / "howto" / "replication.md",
    *sorted(REFERENCE.glob("*.md")),
]
PGQ = (sys.executable, "-c", "from pgq.cli import app; app()")
TYPES = {"timestamp with time zone": "timestamptz", "integer": "int"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[1], m[2]) for m in found]


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    source = "\n" * block.line + block.text  # so that tracebacks name the line of the page
    code = compile(source, str(block.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)  # noqa: S102


def run_program(block: Block, command: list[Any], text: str = "") -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{block}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_example_runs(page: Path, dsn: str, psql: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGQ_DSN", dsn)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        match block.language:
            case "python":
                run_python(block, namespace)
            case "sql":
                run_program(block, [psql, dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1"], block.text)
            case "console":
                for command in re.findall(r"^\$ (pgq .*)$", block.text, re.MULTILINE):
                    _, *arguments = shlex.split(command, comments=True)
                    if arguments[0] != "dev":
                        run_program(block, [*PGQ, *arguments])


def test_pages_have_examples() -> None:
    """The parser finds what is there; an empty list would pass every test."""
    languages = {page.name: {block.language for block in blocks(page)} for page in PAGES}
    assert {"python", "sql"} <= languages["README.md"]
    assert {"python", "sql", "console"} <= languages["tutorial.md"]
    assert {"python", "sql"} <= languages["hot-keys.md"]
    assert languages["outbox.md"] == {"python", "text"}


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name} links to {target}"
            if anchor and linked.suffix == ".md":
                titles = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in anchors, f"{page.name} links to {target}"


def table(page: Path, first_column: str, section: str = "") -> dict[str, list[str]]:
    """The rows of the table that begins with a column, below a heading: first cell without backticks -> all cells."""
    text = page.read_text(encoding="utf-8")
    text = text[text.index(section) :]
    found = re.search(rf"^\| {re.escape(first_column)} \|.*\n\|[ |:-]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, f"no table {first_column} in {page.name}"
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()]
    result = {row[0].strip("`"): row for row in rows}
    assert len(result) == len(rows), "a row stands there twice"
    return result


def tree(root: type[errors.PgqError]) -> list[type[errors.PgqError]]:
    return [root] + [error for child in root.__subclasses__() for error in tree(child)]


def test_errors() -> None:
    rows = table(REFERENCE / "errors.md", "Error")
    documented = {name: (row[1], row[2].partition(",")[0]) for name, row in rows.items()}
    ours = [error for error in tree(errors.PgqError) if error.__module__ == errors.__name__]
    assert documented == {e.__name__: (e.sqlstate, "yes" if e.retriable else "no") for e in ours}
    assert all(len(row) == 6 and all(row) for row in rows.values())


def test_topic_configuration(conn: psycopg.Connection[Any]) -> None:
    rows = table(REFERENCE / "topic-config.md", "Key")
    found = conn.execute(
        "select key, default_value #>> '{}', coalesce(array_to_string(choices, ', '), minimum || ' to ' || maximum)"
        " from pgq.topic_config"
    ).fetchall()
    assert {key: (row[1], row[2]) for key, row in rows.items()} == {key: (a, b) for key, a, b in found}


def as_documented(signature: str) -> str:
    """A signature in the words of the page: short names of types, lower case, one space."""
    signature = re.sub(r"::[\w ]+(\[\])?(?=[,)])", "", signature)
    for name, short in TYPES.items():
        signature = signature.replace(name, short)
    signature = re.sub(r"\b(DEFAULT|NULL|INOUT|OUT|SETOF|TABLE)\b", lambda m: m[0].lower(), signature)
    return " ".join(signature.replace('pgq."fetch"', "pgq.fetch").split())


def sections() -> dict[str, str]:
    """The sections of sql.md by function."""
    text = (REFERENCE / "sql.md").read_text(encoding="utf-8")
    found = re.findall(r"^### (pgq\.\w+)\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    assert len(dict(found)) == len(found), "a function stands there twice"
    return dict(found)


def test_sql_functions_and_their_signatures(conn: psycopg.Connection[Any]) -> None:
    documented = {
        name: as_documented(re.search(r"```text\n(.*?)```", s, re.DOTALL)[1]) for name, s in sections().items()
    }
    with conn.transaction():
        conn.execute("set local search_path = ''")
        rows = conn.execute(
            "select 'pgq.' || proname, format('pgq.%I(%s) returns %s', proname, pg_get_function_arguments(oid),"
            " pg_get_function_result(oid)) from pg_proc"
            " where pronamespace = 'pgq'::regnamespace and not starts_with(proname, '_')"
        ).fetchall()
    assert documented == {name: as_documented(signature) for name, signature in rows}


def test_sql_functions_and_what_they_raise() -> None:
    for name, section in sections().items():
        source = (sql_folder() / "functions" / f"{name.removeprefix('pgq.')}.sql").read_text(encoding="utf-8")
        header = source.partition("\ncreate ")[0]
        raised = re.search(r"^Raises: (.*?)\n\n", section + "\n\n", re.DOTALL | re.MULTILINE)
        documented = set(re.findall(r"PQ\d{3}", raised[1])) if raised else set()
        if "pgq.produce" in header.partition("raises")[2] or "as pgq.produce" in header:
            produce = (sql_folder() / "functions" / "produce.sql").read_text(encoding="utf-8")
            header += produce.partition("\ncreate ")[0]
        assert documented == set(re.findall(r"PQ\d{3}", header)), name


@pytest.mark.parametrize(
    "heading, client", [("## Admin", pgq.Admin), ("## Producer", pgq.Producer), ("## Consumer", pgq.Consumer)]
)
def test_options_of_the_clients(heading: str, client: type[Any]) -> None:
    rows = table(REFERENCE / "configuration.md", "Option", heading)
    parameters = inspect.signature(client).parameters
    assert list(rows) == list(parameters)
    for name, parameter in parameters.items():
        default = rows[name][1]
        if name == "dsn":
            assert default == "`PGQ_DSN`"
        elif parameter.default in (None, inspect.Parameter.empty):
            assert default == "none"
        else:
            assert ast.literal_eval(default) == parameter.default


def test_metrics_of_a_producer() -> None:
    rows = table(REFERENCE / "configuration.md", "Metric")
    assert rows == {m.name: [f"`{m.name}`", m.kind, m.unit, m.description] for m in PRODUCER_METRICS}


def test_variables_of_the_environment() -> None:
    rows = table(REFERENCE / "configuration.md", "Variable")
    settings = {f"PGQ_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    assert set(rows) == settings.keys() | {"PGQ_PG_BIN"}  # the embedded server reads that one itself
    assert {name: rows[name][1] for name in settings} == {
        name: "none" if default is None else str(default) for name, default in settings.items()
    }


def test_options_of_dev() -> None:
    rows = table(REFERENCE / "configuration.md", "Option of `pgq dev`")
    assert list(rows) == ["--" + name.replace("_", "-") for name in inspect.signature(dev).parameters]
