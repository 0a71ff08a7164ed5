"""A database in the TXC mode."""

from __future__ import annotations

from types import TracebackType
from typing import Any, ClassVar

from tidelock.at.branches import Branches
from tidelock.at.phase_one import PhaseOne, Rules
from tidelock.at.resource import AtDataSource, AtResource
from tidelock.driving import drive
from tidelock.rm.resource import Mode
from tidelock.sql.drivers import closed
from tidelock.sql.session import Session
from tidelock.transaction.shielding import shielded
from tidelock.txc.phase_one import TxcPhaseOne


class TxcDataSource(AtDataSource):
    """What an application connects through, as `AtDataSource`, with rows locked beforehand::

        stock = TxcDataSource(lambda: pymysql.connect(host="db", database="stock"))

        @tidelock.txc_transaction
        def take(sku: str) -> None:
            with stock.connection() as connection, connection.cursor() as cursor:
                cursor.execute("UPDATE stock SET count = count - 1 WHERE sku = %s", (sku,))

    It takes what `AtDataSource` takes, its engines and Django's databases too, and keeps its undo
    data in the same table. `lock_wait_timeout_ms` is how long a statement waits for its rows.
    """

    mode: ClassVar[Mode] = "TXC"

    def connection(self, pool: Any = None) -> TxcBlock:
        """Return a block of one connection and one local transaction.

        It is committed at the end of the block, and rolled back when an exception leaves it. The
        connection is made for it, or borrowed from a `pool` that `wrap_pool` takes, its own or the
        wrapped one.

        Raises: DatabaseUnsuitableError: it is no such pool. At its beginning: what `connect` or the
        pool raises. At its end: what committing raises.
        """
        return TxcBlock(self, None if pool is None else self._wrapped(pool))

    def _wrapped(self, pool: Any) -> Any:
        from tidelock.sql.drivers.pools import AwaitingPool, PsycopgPool  # noqa: PLC0415 (as above)

        return pool if isinstance(pool, (AwaitingPool, PsycopgPool)) else self.wrap_pool(pool)

    def _phase_one(
        self, session: Session, rules: Rules, branches: Branches, resource: AtResource
    ) -> PhaseOne:
        return TxcPhaseOne(session, rules, branches, resource, self.application)


class TxcBlock:
    """A block of `TxcDataSource.connection`. It is used once."""

    def __init__(self, source: TxcDataSource, pool: Any) -> None:
        """`pool`, where there is one, lends connections that take part."""
        self._source = source
        self._pool = pool
        self._connection: Any = None
        self._transaction: Any = None
        """Of asyncpg, which has no other way to begin and end one."""

    def __enter__(self) -> Any:
        pool = self._pool
        self._connection = self._source.connect() if pool is None else pool.getconn()
        return self._connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self._connection.commit()
            else:
                self._connection.rollback()
        finally:
            if self._pool is None:
                drive(closed(self._connection))
            else:
                self._pool.putconn(self._connection)

    async def __aenter__(self) -> Any:
        pool = self._pool
        connection = await (self._source.aconnect() if pool is None else pool.acquire())
        self._connection = connection
        if not hasattr(connection, "commit"):
            try:
                self._transaction = connection.transaction()
                await self._transaction.start()
            except BaseException:
                await shielded(self._give_back())
                raise
        return connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await shielded(self._leave(error))

    async def _leave(self, error: BaseException | None) -> None:
        ends = self._transaction or self._connection
        try:
            await (ends.commit() if error is None else ends.rollback())
        finally:
            await self._give_back()

    async def _give_back(self) -> None:
        if self._pool is None:
            await closed(self._connection)
        else:
            await self._pool.release(self._connection)
