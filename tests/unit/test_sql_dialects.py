"""What a database says of a failure is found within what frameworks make of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from django.db.utils import DatabaseError as DjangoError

from tidelock.sql.dialects import SQLITE


def as_it_is(error: sqlite3.Error) -> Exception:
    return error


def by_sqlalchemy(error: sqlite3.Error) -> Exception:
    return sa.exc.OperationalError("UPDATE t", None, error)


def by_django(error: sqlite3.Error) -> Exception:
    raised = DjangoError(*error.args)
    raised.__cause__ = error
    return raised


WRAPPED = pytest.mark.parametrize("wrapped", [as_it_is, by_sqlalchemy, by_django])


@WRAPPED
def test_a_locked_file_of_sqlite_is_worth_another_attempt(
    tmp_path: Path, wrapped: Callable[[sqlite3.Error], Exception]
) -> None:
    file = str(tmp_path / "test.db")
    one = sqlite3.connect(file, timeout=0, isolation_level=None)
    other = sqlite3.connect(file, timeout=0, isolation_level=None)
    one.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as caught:
        other.execute("BEGIN IMMEDIATE")
    one.close()
    other.close()
    assert SQLITE.is_transient(wrapped(caught.value))
    assert not SQLITE.is_constraint(wrapped(caught.value))


@WRAPPED
def test_a_duplicate_of_sqlite_is_a_constraint_and_will_be_one_again(
    wrapped: Callable[[sqlite3.Error], Exception],
) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError) as caught:
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    error = wrapped(caught.value)
    assert SQLITE.is_duplicate(error)
    assert SQLITE.is_constraint(error)
    assert not SQLITE.is_transient(error)


def test_other_errors_are_none_of_these() -> None:
    error = ValueError(5)
    assert not SQLITE.is_transient(error)
    assert not SQLITE.is_duplicate(error)
    assert not SQLITE.is_constraint(error)
