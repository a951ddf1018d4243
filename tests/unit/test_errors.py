"""The errors are one tree, and what SQL raises and what Python raises are the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest

from pgq import errors
from pgq.drivers.sqlstate import translate, translating
from pgq.schema.files import function_files

ABSTRACT = {errors.PgqError, errors.PartitionsError, errors.UnknownTopicOrPartitionError, errors.SchemaError}


def tree(root: type[errors.PgqError] = errors.PgqError) -> Iterator[type[errors.PgqError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


CONCRETE = [error for error in tree() if error not in ABSTRACT]


def test_every_error_of_the_module_is_in_the_tree() -> None:
    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)}
    assert classes == set(tree())


def test_every_error_has_its_own_sqlstate() -> None:
    states = [error.sqlstate for error in CONCRETE]
    assert len(set(states)) == len(states)
    assert all(re.fullmatch(r"PQ0(?!00)\d\d", state) for state in states)
    assert {state: errors.BY_SQLSTATE[state] for state in states} == dict(zip(states, CONCRETE, strict=True))
    assert errors.BY_SQLSTATE["PQ000"] is errors.PgqError


def test_every_error_says_what_it_is_and_is_named_as_one() -> None:
    for error in tree():
        assert error.__name__.endswith("Error")
        assert error.__doc__


@pytest.mark.parametrize("file", function_files(), ids=lambda file: file.stem)
def test_what_sql_raises_is_known_in_python(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for state in re.findall(r"errcode = '(PQ\w+)'", text):
        assert state in errors.BY_SQLSTATE
    for state, name in re.findall(r"(PQ\d+) \((\w+)\)", text):
        assert errors.BY_SQLSTATE[state].__name__ == name


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize(
    "state, expected, retriable",
    [
        ("PQ001", errors.UnknownTopicError, True),
        ("PQ007", errors.MessageTooLargeError, False),
        ("57P01", errors.BrokerNotAvailableError, True),
        ("08006", errors.BrokerNotAvailableError, True),
        ("40001", errors.DatabaseError, True),
        ("40P01", errors.DatabaseError, True),
        ("55P03", errors.DatabaseError, True),
        ("42601", errors.DatabaseError, False),
        ("23505", errors.DatabaseError, False),
    ],
)
def test_an_error_of_a_driver_is_known_by_its_sqlstate(
    driver: str, state: str, expected: type[errors.PgqError], retriable: bool
) -> None:
    if driver == "psycopg":
        original: Exception = type("Raised", (psycopg.errors.DatabaseError,), {"sqlstate": state})("the message")
    else:
        original = asyncpg.PostgresError.new({"C": state, "M": "the message"})
    with pytest.raises(expected, match="the message") as caught, translating():
        raise original
    assert type(caught.value) is expected
    assert caught.value.retriable is retriable
    assert caught.value.__cause__ is original


def test_a_mistake_of_the_caller_is_known_as_one() -> None:
    assert isinstance(translate(psycopg.ProgrammingError("a mistake before the wire")), errors.InvalidRequestError)


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RuntimeError("x")])
def test_what_comes_from_no_driver_is_left_alone(error: Exception) -> None:
    assert translate(error) is None
    with pytest.raises(type(error)) as caught, translating():
        raise error
    assert caught.value is error
