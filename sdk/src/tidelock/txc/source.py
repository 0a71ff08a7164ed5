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

    def connection(self) -> TxcBlock:
        """Return a block of one connection and one local transaction, made for it.

        It is committed at the end of the block, and rolled back when an exception leaves it.

        Raises, at its beginning: what `connect` raises. At its end: what committing raises.
        """
        return TxcBlock(self)

    def _phase_one(
        self, session: Session, rules: Rules, branches: Branches, resource: AtResource
    ) -> PhaseOne:
        return TxcPhaseOne(session, rules, branches, resource, self.application)


class TxcBlock:
    """A block of `TxcDataSource.connection`. It is used once."""

    def __init__(self, source: TxcDataSource) -> None:
        self._source = source
        self._connection: Any = None
        self._transaction: Any = None
        """Of asyncpg, which has no other way to begin and end one."""

    def __enter__(self) -> Any:
        self._connection = self._source.connect()
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
            drive(closed(self._connection))

    async def __aenter__(self) -> Any:
        connection = self._connection = await self._source.aconnect()
        if not hasattr(connection, "commit"):
            self._transaction = connection.transaction()
            await self._transaction.start()
        return connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ends = self._transaction or self._connection
        try:
            await (ends.commit() if error is None else ends.rollback())
        finally:
            await closed(self._connection)
