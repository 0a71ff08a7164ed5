"""What differs between MySQL and MariaDB, PostgreSQL, and SQLite."""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

DialectName = Literal["mysql", "postgresql", "sqlite"]


class Dialect:
    """One language of SQL."""

    name: ClassVar[DialectName]
    parser: ClassVar[str]
    """What sqlglot calls it."""
    locking: ClassVar[str]
    """What makes a SELECT lock its rows, with its blank."""
    writes_alone: ClassVar[bool] = False
    """A transaction that writes keeps all other writers out of the whole database."""
    greatest_values: ClassVar[int]
    """How many values one statement may have."""
    greatest_bytes: ClassVar[int]
    """How large a value may be so that every common configuration takes it."""

    def quote(self, name: str) -> str:
        """Return a name as it stands in a statement."""
        return '"' + name.replace('"', '""') + '"'

    def qualified(self, schema: str, name: str) -> str:
        """Return the name of a table with that of its schema, if it has one."""
        return f"{self.quote(schema)}.{self.quote(name)}" if schema else self.quote(name)

    def is_duplicate(self, error: BaseException) -> bool:
        """Say whether a unique index refused a row."""
        raise NotImplementedError

    def is_constraint(self, error: BaseException) -> bool:
        """Say whether a constraint refused a row: of a unique index, a foreign key, a check."""
        raise NotImplementedError

    def is_missing_table(self, error: BaseException) -> bool:
        """Say whether a table is not there, or its schema."""
        raise NotImplementedError

    def is_transient(self, error: BaseException) -> bool:
        """Say whether the same local transaction may succeed when it is run again: a deadlock, a
        row that stayed locked, a serialisation failure.
        """
        raise NotImplementedError

    def ends_transaction(self, error: BaseException) -> bool:
        """Say whether an error of a statement has rolled back the whole local transaction, so that
        the next statement begins another one.
        """
        return False


class MySQL(Dialect):
    """MySQL and MariaDB."""

    name = "mysql"
    parser = "mysql"
    locking = " FOR UPDATE"
    greatest_values = 20_000
    # The default of max_allowed_packet is 16 MiB in MariaDB; values double when they are escaped.
    greatest_bytes = 4 * 1024 * 1024

    def quote(self, name: str) -> str:
        """Return a name in backticks, which work in every sql_mode."""
        return "`" + name.replace("`", "``") + "`"

    def is_duplicate(self, error: BaseException) -> bool:
        """ER_DUP_ENTRY, and as it is called with the index's name."""
        return _number(error) in {1062, 1586}

    def is_constraint(self, error: BaseException) -> bool:
        """The errors of duplicates, of foreign keys, of checks, and of NULL."""
        return _number(error) in {1062, 1586, 1451, 1452, 1216, 1217, 4025, 3819, 1048}

    def is_missing_table(self, error: BaseException) -> bool:
        """ER_NO_SUCH_TABLE, ER_BAD_DB_ERROR."""
        return _number(error) in {1146, 1049}

    def is_transient(self, error: BaseException) -> bool:
        """ER_LOCK_DEADLOCK, ER_LOCK_WAIT_TIMEOUT, ER_CHECKREAD."""
        return _number(error) in {1213, 1205, 1020}

    def ends_transaction(self, error: BaseException) -> bool:
        """ER_LOCK_DEADLOCK; the others only undo the statement."""
        return _number(error) == 1213


class PostgreSQL(Dialect):
    """PostgreSQL."""

    name = "postgresql"
    parser = "postgres"
    locking = " FOR UPDATE"
    greatest_values = 30_000
    greatest_bytes = 64 * 1024 * 1024

    def is_duplicate(self, error: BaseException) -> bool:
        """unique_violation."""
        return _state(error) == "23505"

    def is_constraint(self, error: BaseException) -> bool:
        """Class 23, integrity constraint violation."""
        return _state(error).startswith("23")

    def is_missing_table(self, error: BaseException) -> bool:
        """undefined_table, invalid_schema_name."""
        return _state(error) in {"42P01", "3F000"}

    def is_transient(self, error: BaseException) -> bool:
        """serialization_failure, deadlock_detected, lock_not_available."""
        return _state(error) in {"40001", "40P01", "55P03"}


class SQLite(Dialect):
    """SQLite."""

    name = "sqlite"
    parser = "sqlite"
    locking = ""
    writes_alone = True
    greatest_values = 900
    greatest_bytes = 64 * 1024 * 1024

    def is_duplicate(self, error: BaseException) -> bool:
        """SQLITE_CONSTRAINT_UNIQUE, SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID."""
        return _code(error) in {2067, 1555, 2579}

    def is_constraint(self, error: BaseException) -> bool:
        """SQLITE_CONSTRAINT, with what is special about it in higher bits."""
        return _code(error) & 0xFF == 19

    def is_missing_table(self, error: BaseException) -> bool:
        """SQLite has no code for it."""
        return any(
            getattr(each, "sqlite_errorcode", 0) == 1 and "no such table" in f"{each}"
            for each in _cause(error)
        )

    def is_transient(self, error: BaseException) -> bool:
        """SQLITE_BUSY and SQLITE_LOCKED, with what is special about them in higher bits."""
        return _code(error) & 0xFF in {5, 6}


MYSQL: Final = MySQL()
POSTGRESQL: Final = PostgreSQL()
SQLITE: Final = SQLite()

DIALECTS: Final[dict[str, Dialect]] = {each.name: each for each in (MYSQL, POSTGRESQL, SQLITE)}


def _cause(error: BaseException) -> list[BaseException]:
    """Return an error with those it was made of: layers wrap what a driver raises."""
    found: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in found:
        found.append(each)
        each = getattr(each, "orig", None) or each.__cause__
    return found


_DRIVERS_OF_MYSQL: Final = frozenset({"pymysql", "asyncmy", "MySQLdb"})


def _number(error: BaseException) -> int:
    """Return the server's number of an error, which other exceptions may have by chance."""
    for each in _cause(error):
        arguments: tuple[Any, ...] = each.args
        is_drivers = type(each).__module__.partition(".")[0] in _DRIVERS_OF_MYSQL
        if is_drivers and arguments and isinstance(arguments[0], int):
            return arguments[0]
    return 0


def _state(error: BaseException) -> str:
    for each in _cause(error):
        state = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)
        if isinstance(state, str):
            return state
    return ""


def _code(error: BaseException) -> int:
    for each in _cause(error):
        code = getattr(each, "sqlite_errorcode", None)
        if isinstance(code, int):
            return code
    return 0
