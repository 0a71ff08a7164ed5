"""Deleting rows of barriers whose transactions have ended, as the cluster knows.

No age of a row is enough: a transaction may be at it for days, and its calls come until it has
ended.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from tidelock.application import Application, configured
from tidelock.barrier.barrier import begun, forget
from tidelock.barrier.tables import BARRIER, gids_after
from tidelock.calls import Calls
from tidelock.client import Client
from tidelock.driving import drive
from tidelock.errors import TransactionNotFoundError
from tidelock.sql.drivers import session_of
from tidelock.sql.own_tables import BARRIER as BARRIER_TABLE
from tidelock.sql.session import Session
from tidelock.transaction.context import checked

ENDED_SINCE_MS: Final = 3_600_000
"""How long ago a transaction must have ended: no call of it is still on its way then."""

BATCH: Final = 200


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    deleted: int
    """Rows of transactions that have ended."""
    under_way: int
    """Transactions that have not, or not long enough ago."""
    unknown: int
    """Transactions of which the cluster knows nothing: of another one, or forgotten. They stay."""


def sweep(
    connection: Any,
    *,
    application: Application | None = None,
    table: str = BARRIER,
    ended_since_ms: int = ENDED_SINCE_MS,
) -> Swept:
    """Ask about every transaction of which there are rows, and delete those of ended ones.

    The connection is one of PyMySQL, psycopg or sqlite3, with no transaction under way. Call it now
    and then, from one process.

    Raises:
        BarrierError, NotConfiguredError; what the client and the driver raise.
    """
    application = configured() if application is None else application
    sweeper = Sweeper(session_of(connection), application.blocking, table, ended_since_ms)
    return drive(sweeper.sweep())


async def sweep_async(
    connection: Any,
    *,
    application: Application | None = None,
    table: str = BARRIER,
    ended_since_ms: int = ENDED_SINCE_MS,
) -> Swept:
    """The same for connections of asyncmy, asyncpg and aiosqlite. Raises: as `sweep`."""
    application = configured() if application is None else application
    sweeper = Sweeper(session_of(connection), application.awaiting, table, ended_since_ms)
    return await sweeper.sweep()


class Sweeper:
    """Sweeps by a session."""

    def __init__(
        self,
        session: Session,
        calls: Calls,
        table: str,
        ended_since_ms: int,
        also: Callable[[Session, Sequence[str]], Awaitable[object]] | None = None,
    ) -> None:
        """`also` is called with the transactions whose rows go, in the same local transaction."""
        self._session = session
        self._calls = calls
        self._table = table
        self._ended_since_ms = ended_since_ms
        self._also = also

    async def sweep(self) -> Swept:
        """Ask about every transaction of which there are rows. Raises: as `sweep`."""
        deleted, under_way, unknown, after = 0, 0, 0, ""
        while True:
            gids = await self._next(after)
            if not gids:
                return Swept(deleted=deleted, under_way=under_way, unknown=unknown)
            ended = []
            for gid in gids:
                has_ended = await self._has_ended(gid)
                if has_ended:
                    ended.append(gid)
                under_way += has_ended is False
                unknown += has_ended is None
            deleted += await self._delete(ended)
            after = gids[-1]

    async def _next(self, after: str) -> list[str]:
        await begun(self._session)
        try:
            query = gids_after(self._session.dialect, self._table, BATCH)
            found = await BARRIER_TABLE.execute(self._session, self._table, query, (after,))
            return [str(gid) for (gid,) in found.rows]
        finally:
            await self._session.rollback()

    async def _has_ended(self, gid: str) -> bool | None:
        """Say whether a transaction ended long enough ago; None when nobody knows it."""

        async def ended_at(client: Client) -> int | None:
            return (await client.transactions.get(gid)).ended_at

        try:
            at = await self._calls(ended_at) if _is_xid(gid) else _UNKNOWN
        except TransactionNotFoundError as error:
            at = _UNKNOWN if error.transaction is None else error.transaction.ended_at
        if at == _UNKNOWN:
            return None
        return at is not None and at <= time.time_ns() // 1_000_000 - self._ended_since_ms

    async def _delete(self, gids: list[str]) -> int:
        if not gids:
            return 0
        await begun(self._session)
        try:
            deleted = await forget(self._session, gids, table=self._table)
            if self._also is not None:
                await self._also(self._session, gids)
            await self._session.commit()
        except BaseException:
            await self._session.rollback()
            raise
        return deleted


_UNKNOWN: Final = -1


def _is_xid(gid: str) -> bool:
    try:
        checked(gid)
    except ValueError:  # DTM allows more; the cluster keeps those under other names
        return False
    return True
