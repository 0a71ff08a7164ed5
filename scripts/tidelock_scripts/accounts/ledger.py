"""The accounts: even numbers in MariaDB, odd ones in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import msgspec

from scripts.tidelock_scripts.database_servers import Server, mariadb_server, postgresql_server
from tidelock.at.undo_log import DEFAULT_TABLES, undo_log_ddl
from tidelock.sql.dialects import DialectName

ACCOUNTS: Final = 100
OPENED_WITH: Final = 1_000

Told = Literal["committed", "rolled back", "unknown"]
"""What became of a transfer, as far as its worker was told."""


class Transfer(msgspec.Struct):
    """One attempt to move money."""

    xid: str
    """Empty when it could not even begin."""
    giver: int
    taker: int
    amount: int
    told: Told = "unknown"
    error: str = ""
    """Of what kind it was that it ended with."""


class Ledger:
    """The accounts of one bank, in a database of each server."""

    def __init__(self, mariadb: Server, mysql_name: str, postgresql: Server, name: str) -> None:
        self._places: dict[DialectName, tuple[Server, str]] = {
            "mysql": (mariadb, mysql_name),
            "postgresql": (postgresql, name),
        }

    def where(self, dialect: DialectName) -> dict[str, Any]:
        """Return what the blocking driver of a dialect is told."""
        server, name = self._places[dialect]
        return server.where(name)

    @property
    def pids(self) -> dict[str, list[int]]:
        """Return the process of each server."""
        return {server.kind: [server.process.pid] for server, _ in self._places.values()}

    def open(self) -> None:
        """Make the tables, with the same money in each account."""
        for number, (dialect, (server, name)) in enumerate(self._places.items()):
            rows = ", ".join(f"({at}, {OPENED_WITH})" for at in range(number, ACCOUNTS, 2))
            server.sql(
                undo_log_ddl(dialect),
                "CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL)",
                f"INSERT INTO account VALUES {rows}",  # noqa: S608  # numbers
                database=name,
            )

    def balances(self) -> dict[int, int]:
        """Return what is in the accounts."""
        return dict(self._rows("SELECT id, balance FROM account"))

    def undo_rows(self) -> int:
        """Return how many rows the tables of undo data have."""
        found = 0
        for dialect, (server, name) in self._places.items():
            table = DEFAULT_TABLES[dialect]
            ((rows,),) = server.sql(f"SELECT count(*) FROM {table}", database=name)  # noqa: S608
            found += int(rows)
        return found

    def _rows(self, query: str) -> list[tuple[int, int]]:
        return [
            (int(account), int(balance))
            for server, name in self._places.values()
            for account, balance in server.sql(query, database=name)
        ]


def dialect_of(account: int) -> DialectName:
    """Return where an account is."""
    return "postgresql" if account % 2 else "mysql"


def expected(transfers: Iterable[Transfer]) -> dict[int, int]:
    """Return the balances that follow from the transfers that were committed."""
    found = dict.fromkeys(range(ACCOUNTS), OPENED_WITH)
    for each in transfers:
        found[each.giver] -= each.amount
        found[each.taker] += each.amount
    return found


@contextmanager
def opened_ledger() -> Iterator[Ledger]:
    """Start both servers and open the accounts.

    Raises: ServerError
    """
    with (
        mariadb_server() as mariadb,
        postgresql_server() as postgresql,
        mariadb.database() as mysql_name,
        postgresql.database() as name,
    ):
        ledger = Ledger(mariadb, mysql_name, postgresql, name)
        ledger.open()
        yield ledger
