"""How one worker moves money: two local transactions in one global one, blocking or awaiting."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Final

import asyncmy
import asyncpg
import psycopg
import pymysql

import tidelock
from scripts.tidelock_scripts.accounts.ledger import Transfer, dialect_of
from tidelock.sql.dialects import DialectName

_TIMEOUT_MS: Final = 30_000

_TAKE: Final = "UPDATE account SET balance = balance - %s WHERE id = %s AND balance >= %s"
_GIVE: Final = "UPDATE account SET balance = balance + %s WHERE id = %s"
_NUMBERED: Final = {
    _TAKE: "UPDATE account SET balance = balance - $1 WHERE id = $2 AND balance >= $3",
    _GIVE: "UPDATE account SET balance = balance + $1 WHERE id = $2",
}


class ChangedMindError(Exception):
    """A transfer is rolled back though nothing was wrong with it."""


class NotEnoughError(Exception):
    """There is too little in the giver's account."""


class BlockingHands:
    """PyMySQL and psycopg."""

    def __init__(
        self, application: tidelock.Application, databases: Mapping[DialectName, dict[str, Any]]
    ) -> None:
        self._application = application
        self._sources = {
            "mysql": tidelock.AtDataSource(
                lambda: pymysql.connect(**databases["mysql"]), application=application
            ),
            "postgresql": tidelock.AtDataSource(
                lambda: psycopg.connect(**databases["postgresql"]), application=application
            ),
        }
        self._connections: dict[str, Any] = {}
        self._change = tidelock.local_transaction(application=application)(self._changed)

    def move(self, transfer: Transfer, *, changes_its_mind: bool) -> None:
        """Do a transfer, and commit it.

        Raises: NotEnoughError, ChangedMindError, and what `tidelock.transaction` raises.
        """
        giver, taker, amount = transfer.giver, transfer.taker, transfer.amount
        with tidelock.transaction(
            "transfer", timeout_ms=_TIMEOUT_MS, application=self._application
        ) as transaction:
            transfer.xid = transaction.xid
            if not self._change(giver, _TAKE, (amount, giver, amount)):
                raise NotEnoughError
            self._change(taker, _GIVE, (amount, taker))
            if changes_its_mind:
                raise ChangedMindError

    def _changed(self, account: int, text: str, values: tuple[int, ...]) -> int:
        place = dialect_of(account)
        connection = self._connections.get(place)
        if connection is None:
            connection = self._connections[place] = self._sources[place].connect()
        with connection.cursor() as cursor:
            cursor.execute(text, values)
            count: int = cursor.rowcount
        connection.commit()
        return count

    def drop(self) -> None:
        """Close the connections: others are made for what comes next."""
        for connection in self._connections.values():
            with contextlib.suppress(Exception):
                connection.close()
        self._connections.clear()


class AwaitingHands:
    """asyncmy and asyncpg."""

    def __init__(
        self, application: tidelock.Application, databases: Mapping[DialectName, dict[str, Any]]
    ) -> None:
        self._application = application
        postgresql = dict(databases["postgresql"])
        postgresql["database"] = postgresql.pop("dbname")
        self._sources = {
            "mysql": tidelock.AtDataSource(
                lambda: asyncmy.connect(**databases["mysql"]), application=application
            ),
            "postgresql": tidelock.AtDataSource(
                lambda: asyncpg.connect(**postgresql), application=application
            ),
        }
        self._connections: dict[str, Any] = {}
        self._change = tidelock.local_transaction(application=application)(self._changed)

    async def move(self, transfer: Transfer, *, changes_its_mind: bool) -> None:
        """As that of `BlockingHands`."""
        giver, taker, amount = transfer.giver, transfer.taker, transfer.amount
        async with tidelock.transaction(
            "transfer", timeout_ms=_TIMEOUT_MS, application=self._application
        ) as transaction:
            transfer.xid = transaction.xid
            if not await self._change(giver, _TAKE, (amount, giver, amount)):
                raise NotEnoughError
            await self._change(taker, _GIVE, (amount, taker))
            if changes_its_mind:
                raise ChangedMindError

    async def _changed(self, account: int, text: str, values: tuple[int, ...]) -> int:
        place = dialect_of(account)
        connection = self._connections.get(place)
        if connection is None:
            connection = self._connections[place] = await self._sources[place].aconnect()
        if place == "mysql":
            async with connection.cursor() as cursor:
                await cursor.execute(text, values)
                count = int(cursor.rowcount)
            await connection.commit()
            return count
        async with connection.transaction():
            done: str = await connection.execute(_NUMBERED[text], *values)
        return int(done.rpartition(" ")[2])

    async def drop(self) -> None:
        """As that of `BlockingHands`."""
        for place, connection in self._connections.items():
            with contextlib.suppress(Exception):
                if place == "mysql":
                    await connection.ensure_closed()
                else:
                    await connection.close()
        self._connections.clear()
