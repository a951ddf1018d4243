"""What the documentation says is true: its examples run and print what they show, and its tables are those of the code.

Blocks of a page run in order, in one Python namespace, on a database of the page's own that PGQ_DSN names. Fences:
python; sql (through psql, as a reader would); sh; console, of which lines that begin with `$ ` run, in one shell. Of
the latter two, lines are left out that export the DSN of a server that is not ours, or start what does not end. Every
other block stands in NOT_RUN with a reason, which mostly is the test that does run it. A new block that neither runs
nor stands there fails.

What a page shows is compared with what is printed: the lines below a command of a console; and the comment behind a
`print` of Python, up to `: ` or `; ` where an explanation follows, with what it prints first. Times, durations and
ports may be others, and `…` stands for anything. A command below which nothing stands may print anything, and so may a
`print` without a comment.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import tokenize
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import pgq
from pgq import errors, schema
from pgq.cli.dev import dev
from pgq.cli.serve import serve
from pgq.config import Settings
from pgq.embedded import EmbeddedServer
from pgq.schema.files import sql_folder
from pgq.telemetry import CONSUMER_METRICS, PRODUCER_METRICS, SERVICE_METRICS

ROOT = Path(pgq.__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
PAGES = sorted([ROOT / "README.md", ROOT / "examples" / "README.md", *ROOT.glob("docs/**/*.md")])

# Pages that begin without the schema, since they install it.
WITHOUT_SCHEMA = {"docs/tutorial.md"}
# Pages with commands of a superuser: they run on a server of their own.
OWN_SERVER = {"examples/README.md", "docs/howto/doctor.md", "docs/howto/move.md", "docs/reference/roles.md"}

INSTALLS = "downloads from an index; test_wheel.py installs the wheel"
CLASH = "pip, in an environment of its own; test_name_clash.py"
DEV = "runs until Ctrl-C; test_dev.py"
OUTPUT = "output"
# Page -> the beginnings of blocks that do not run here -> why.
NOT_RUN: dict[str, dict[str, str]] = {
    "README.md": {
        "make demo": "make itself; test_demo.py",
        "pip install": INSTALLS,
    },
    "docs/sql.md": {"": "test_sql_page.py runs each, and looks at the answer"},
    "docs/tutorial.md": {"pip install": INSTALLS, "$ pgq dev": DEV},
    "docs/howto/consumer-groups.md": {"export PGQ_DIRECT_DSN": "an address; test_pooler.py"},
    "docs/howto/doctor.md": {"*/10 * * * *": "a line of a crontab, and mail; test_cli_doctor.py"},
    "docs/howto/install.md": {
        "pip install pgq-log": INSTALLS,
        "schema pgq exists and was not made": "output; test_fresh_install.py",
        "pip uninstall": CLASH,
    },
    "docs/howto/move.md": {
        "pg_ctl": "two servers of two versions; test_restore.py::test_pg_upgrade",
        "select pgq._cover_offset": "two servers; test_restore.py::test_logical_replication",
        "create publication": "the same",
        "create subscription": "the same",
    },
    "docs/howto/replication.md": {
        "docker compose": "Docker; test_compose.py",
        "pgq dev": DEV,
        "synchronous_standby_names": OUTPUT,
    },
    "docs/howto/service.md": {
        "export PGQ_DSN": "runs until it is ended; test_cli_serve.py",
        "pgq serves": OUTPUT,
        "[Unit]": "systemd is not everywhere; test_cli_serve.py runs its command",
        "docker build": "Docker; test_compose.py builds the image and runs it",
        "*/5 * * * *": "a line of a crontab; test_cli_maintain.py",
        "scrape_configs": "Prometheus; test_yaml_is_yaml",
        "groups:": "Prometheus; test_yaml_is_yaml, and the metrics are those of test_metrics_of_the_service",
    },
    "docs/howto/testcontainers.md": {
        "pip install": INSTALLS,
        "#": "test_container.py runs it under pytest",
        "[tool.pytest": "settings of pytest; test_testing.py",
    },
    "docs/howto/testing.md": {
        "pip install": INSTALLS,
        "#": "test_testing.py runs it under pytest",
        "[tool.pytest": "settings of pytest; test_testing.py",
        "services:": "of GitHub; test_yaml_is_yaml",
    },
    "docs/reference/cli.md": {
        "CHECK ": OUTPUT,
        "pgq produce flights flights.csv.gz": "tail -f does not end; test_cli_produce.py",
    },
    "docs/reference/python.md": {"": "signatures; test_python_reference_is_generated"},
    "docs/reference/roles.md": {"create role pgq_reader": "what `pgq db roles` has done already; test_roles.py"},
    "docs/reference/sql.md": {"pgq.": "signatures; test_sql_functions_and_their_signatures"},
    "examples/README.md": {"pip install": f"{INSTALLS}; test_examples.py runs each program"},
}
LEFT_OUT = re.compile(r"export PGQ_(DIRECT_)?DSN=|pgq (serve|dev)\b|tail -f|pgq consume .*-f\b")
# What commands find in their folder.
FILES = {"flights.csv": "carrier,origin,dest\nUA,JFK,BOS\nAA,JFK,LAX\nUA,EWR,ORD\n"}

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
        return f"{name_of(self.page)}, line {self.line}"


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; those of a list are indented."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [Block(page, text.count("\n", 0, m.start()) + 1, m[2], textwrap.dedent(m[3])) for m in found]


def reasons(block: Block) -> list[str]:
    """Why a block does not run: what NOT_RUN says."""
    why = NOT_RUN.get(name_of(block.page), {})
    return [reason for beginning, reason in why.items() if block.text.startswith(beginning)]


def commands(block: Block) -> list[str]:
    """What a shell runs of a block."""
    match block.language:
        case "console":
            return [command for command, _ in shown_outputs(block) if not LEFT_OUT.match(command)]
        case "sh":
            script = "".join(line for line in block.text.splitlines(keepends=True) if not LEFT_OUT.match(line))
            return [script] if script.strip() else []
    return []


def shown_outputs(block: Block) -> list[tuple[str, str]]:
    """The commands of a console, and what stands below each."""
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE)


def shown_comments(block: Block) -> dict[int, str]:
    """Line of the page -> the comment there, where a call of print begins."""
    tokens = tokenize.generate_tokens(StringIO(block.text).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    code = block.text.splitlines()
    return {block.line + line: comment for line, comment in comments.items() if re.match(r" *print\(", code[line - 1])}


# What is another each time -> what it may be.
PASSING = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
    (r"[\d,]+ records/s", r"[\d,]+ records/s"),
    (r"\d+(?:\.\d+)? s(?= |,|$)", r"[\d.,]+ s"),
    (r"\d+\.\d{3}", r"\d+(?:\.\d+)?"),  # seconds
    (r"127\.0\.0\.1:\d+", r"127\.0\.0\.1:\d+"),
    (r" *…(?: *(?=\n|$))?", r".*"),
    (r"\s+", r"\s+"),  # columns are as wide as what is in them
]


def is_shown(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed."""
    pattern, rest = "", shown.strip()
    while rest:
        for passing, allowed in PASSING:
            if found := re.match(passing, rest, re.MULTILINE):
                pattern += allowed
                break
        else:
            found = re.match(r"[^\W\d]+|.", rest)
            pattern += re.escape(found[0])
        rest = rest[found.end() :]
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def run_python(block: Block, namespace: dict[str, Any]) -> None:
    source = "\n" * block.line + block.text  # so that tracebacks name the line of the page
    code = compile(source, str(block.page), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    printed: dict[int, list[str]] = {}

    def note(*values: object) -> None:
        printed.setdefault(sys._getframe(1).f_lineno, []).append(" ".join(map(str, values)))

    namespace["print"] = note
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(code, namespace))
    else:
        exec(code, namespace)  # noqa: S102
    for line, shown in shown_comments(block).items():
        first = printed.get(line, ["nothing"])[0]
        without_explanation = re.split(r"[:;] ", shown)[0]
        assert is_shown(shown, first) or is_shown(without_explanation, first), (
            f"{name_of(block.page)}, line {line} shows {shown}, and printed is {first}"
        )


def run_program(block: Block, command: list[Any], text: str = "") -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(text)
        except BaseException:  # what a shell has started would outlive it
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, f"{block}: {output}"
    return output


def run_console(block: Block) -> None:
    """Run the commands in one shell, as they are typed, and compare what each printed."""
    end = "-- the end of a command --"
    run = [(command, shown) for command, shown in shown_outputs(block) if not LEFT_OUT.match(command)]
    script = "".join(f"{command}\ncode=$?; echo '{end}'; [ $code = 0 ] || exit $code\n" for command, _ in run)
    outputs = run_program(block, ["bash", "-uo", "pipefail", "-c", script]).split(f"{end}\n")
    for (command, shown), printed in zip(run, outputs, strict=False):  # after the last end there is nothing
        assert not shown or is_shown(shown, printed), f"{block} shows for {command}\n{shown}\nand printed is\n{printed}"


@pytest.fixture
def page_dsn(request: pytest.FixtureRequest, page: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The DSN of the page's database; where it takes a superuser, PostgreSQL's own programs are one."""
    if name_of(page) not in OWN_SERVER:
        dsn: str = request.getfixturevalue("empty_dsn" if name_of(page) in WITHOUT_SCHEMA else "dsn")
        return dsn
    server: EmbeddedServer = request.getfixturevalue("own_server")
    with psycopg.connect(server.dsn(), autocommit=True) as superuser:
        superuser.execute("create role app login createrole in role pg_monitor")
        superuser.execute("create role billing")
        superuser.execute("create database app owner app")
    for key, setting in conninfo_to_dict(server.dsn("app")).items():
        monkeypatch.setenv({"dbname": "PGDATABASE"}.get(key, f"PG{key.upper()}"), str(setting))
    monkeypatch.setenv("OLD", server.dsn("app", user="app"))
    monkeypatch.setenv("NEW", server.dsn("new", user="app"))
    schema.upgrade(server.dsn("app", user="app"))
    return server.dsn("app", user="app")


def clear_new(block: Block) -> None:
    """Let each block of docs/howto/move.md find a database `new` that is empty, or none if the block makes it."""
    if "$NEW" in block.text:
        with psycopg.connect("", autocommit=True) as superuser:
            superuser.execute("drop database if exists new")
            if "createdb" not in block.text:
                superuser.execute("create database new owner app")


@pytest.mark.parametrize(
    "shown, printed",
    [
        ("schema pgq: none -> 0006", "schema pgq: none -> 0006\n"),
        ("AT                        N\n2026-05-31T12:00:00.125Z  1", "AT  N\n2031-01-01T10:11:12.000Z  1"),
        ("2 records in 0.1 s, 22 records/s", "2 records in 12.35 s, 1,022 records/s"),
        ("SECONDS\n 12.501", "SECONDS\n0.5"),
        ("runs on 127.0.0.1:26342", "runs on 127.0.0.1:1024"),
        ("RecordMetadata(partition=…, offset=0, …)", "RecordMetadata(partition=3, offset=0, timestamp=5)"),
        ("first\n…\nlast…", "first\n2\n3\nlast one"),
    ],
)
def test_what_is_another_each_time_may_be_so(shown: str, printed: str) -> None:
    assert is_shown(shown, printed)


@pytest.mark.parametrize(
    "shown, printed",
    [
        ("schema pgq: none -> banana", "schema pgq: none -> 0006"),
        ("AT                        N\n2026-05-31T12:00:00.125Z  1", "AT  N\n2031-01-01T10:11:12.000Z  2"),
        ("3 records in 0.1 s, 22 records/s", "2 records in 0.1 s, 22 records/s"),
        ("SECONDS\n 12.501", "SECONDS\n-"),
        ("SKEW\n1.5", "SKEW\n1.0"),
        ("runs on 127.0.0.1:26342", "runs on 10.0.0.1:26342"),
        ("RecordMetadata(partition=…, offset=0, …)", "RecordMetadata(partition=3, offset=1, timestamp=5)"),
        ("first\nlast", "first\n2\nlast"),
        ("first\nlast", "first"),
        ("nothing", ""),
    ],
)
def test_what_differs_is_not_shown(shown: str, printed: str) -> None:
    assert not is_shown(shown, printed)


@pytest.mark.parametrize("comment", ["12", "12: a dozen", "12; or so"])
def test_the_comment_behind_a_print_is_compared(comment: str) -> None:
    page = Path(ROOT / "README.md")
    run_python(Block(page, 1, "python", f"for n in (12, 13):\n    print(n)  # {comment}\n"), {})
    with pytest.raises(AssertionError, match=r"line 2 shows 12.*, and printed is 13"):
        run_python(Block(page, 1, "python", f"print(13)  # {comment}\n"), {})
    with pytest.raises(AssertionError, match=r"line 3 shows 12.*, and printed is nothing"):
        run_python(Block(page, 1, "python", f"for n in ():\n    print(n)  # {comment}\n"), {})


def test_the_lines_below_a_command_are_compared() -> None:
    page = Path(ROOT / "README.md")
    text = "$ greeting=hello\n$ echo $greeting\nhello\n$ echo anything\n"
    run_console(Block(page, 1, "console", text))
    with pytest.raises(AssertionError, match=r"shows for echo \$greeting\s+banana"):
        run_console(Block(page, 1, "console", text.replace("\nhello", "\nbanana")))
    with pytest.raises(AssertionError, match="not_there"):
        run_console(Block(page, 1, "console", "$ ls not_there && echo\n$ echo\n"))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_every_example_runs(
    page: Path, page_dsn: str, psql: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    # `pgq doctor` warns here: what it looks at is a server for tests
    pgq_and_code = f'{shlex.join(PGQ)} "$@"\ncode=$?\n[ "$1$code" = doctor1 ] || exit $code\n'
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"pgq": pgq_and_code, "python": f'exec {shlex.quote(sys.executable)} "$@"\n'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join([str(programs), str(psql.parent), os.environ["PATH"]]))
    monkeypatch.setenv("PGQ_DSN", page_dsn)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if reasons(block):
            continue
        match block.language:
            case "python":
                run_python(block, namespace)
            case "sql":
                run_program(block, [psql, page_dsn, "-X", "-q", "-v", "ON_ERROR_STOP=1"], block.text)
            case "console":
                run_console(block)
            case _:
                clear_new(block)
                for script in commands(block):
                    run_program(block, ["bash", "-euo", "pipefail", "-c", script])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_runs_or_has_a_reason_not_to(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^ *(```|~~~)", text, re.MULTILINE)) == 2 * len(blocks(page)), "a fence was overlooked"
    for block in blocks(page):
        runs = block.language in ("python", "sql") or bool(commands(block))
        assert runs or reasons(block), f"{block}: let the block run, or say in NOT_RUN why not"


def test_reasons_are_those_of_blocks_that_are_there() -> None:
    beginnings = {(page, beginning) for page, why in NOT_RUN.items() for beginning in why}
    texts = [(name_of(page), block.text) for page in PAGES for block in blocks(page)]
    assert {(p, b) for p, b in beginnings if not any(page == p and text.startswith(b) for page, text in texts)} == set()
    files = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"test_\w+\.py", str(NOT_RUN))) <= files


def test_tests_that_hold_a_promise_are_there() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", text)
    assert len(named) > 50
    for path, name in named:
        file = ROOT / path if path.startswith(("alembic/", "pgq/")) else ROOT / "tests" / path
        assert file.is_file(), path
        assert not name or re.search(rf"^ *(async )?def {name}\(", file.read_text(), re.MULTILINE), f"{path}::{name}"


def test_yaml_is_yaml() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is none of the dependencies")
    for page in PAGES:
        for block in blocks(page):
            if block.language == "yaml":
                assert isinstance(yaml.safe_load(block.text), dict), str(block)


def test_pages_have_examples() -> None:
    """The parser finds what is there; an empty list would pass every test."""
    languages = {name_of(page): {block.language for block in blocks(page)} for page in PAGES}
    assert {"python", "sql"} <= languages["README.md"]
    assert {"python", "sql", "console"} <= languages["docs/tutorial.md"]
    assert {"python", "sql"} <= languages["docs/howto/hot-keys.md"]
    assert languages["docs/howto/outbox.md"] == {"python"}


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


def test_python_reference_is_generated() -> None:
    command = [sys.executable, ROOT / "scripts" / "generate_python_reference.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metrics_of_a_producer() -> None:
    rows = table(REFERENCE / "configuration.md", "Metric")
    assert rows == {m.name: [f"`{m.name}`", m.kind, m.unit, m.description] for m in PRODUCER_METRICS}


def test_metrics_of_a_consumer() -> None:
    rows = table(REFERENCE / "metrics.md", "Metric of a consumer")
    assert rows == {m.name: [f"`{m.name}`", m.kind, m.unit, m.description] for m in CONSUMER_METRICS}


def test_metrics_of_the_service() -> None:
    rows = table(REFERENCE / "metrics.md", "Metric")
    assert rows == {
        m.name: [f"`{m.name}`", m.kind, m.unit or "-", ", ".join(m.labels) or "-", m.description]
        for m in SERVICE_METRICS
    }


def test_options_of_serve() -> None:
    rows = table(REFERENCE / "cli.md", "Option of `pgq serve`")
    parameters = inspect.signature(serve).parameters
    assert list(rows) == ["--" + name.replace("_", "-") for name in parameters]
    for name, parameter in parameters.items():
        _, variable, default, _ = rows["--" + name.replace("_", "-")]
        if name != "dsn":
            assert variable == f"`PGQ_SERVE_{name.upper()}`"
            assert default == str(parameter.default)


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
