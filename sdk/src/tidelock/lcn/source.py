"""A database in the LCN mode: connections that are held open until the group is decided."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextvars import Token
from types import TracebackType
from typing import Any, Final

from tidelock.application import Application, configured
from tidelock.calls import Calls
from tidelock.driving import drive
from tidelock.lcn.held import Holding
from tidelock.lcn.lending import Lent
from tidelock.lcn.part import Desk, LcnPart, part_of
from tidelock.lcn.phase_two import LcnResource
from tidelock.sql.drivers import closed, session_of
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.identity import identify
from tidelock.sql.session import Session
from tidelock.transaction.context import current_xid
from tidelock.transaction.shielding import shielded
from tidelock.units.unit import Unit, bind, current_unit, unbind

DEFAULT_CONNECTIONS: Final = 20
DEFAULT_WAIT_MS: Final = 10_000
DEFAULT_ASK_AFTER_MS: Final = 30_000

Connect = Callable[[], Any] | Callable[[], Awaitable[Any]]


class LcnDataSource:
    """Gives units their connections, which commit when their group does::

        stock = LcnDataSource(lambda: pymysql.connect(host="db", database="stock"))

        @tidelock.lcn_transaction
        def take(sku: str) -> None:
            with stock.connection() as connection, connection.cursor() as cursor:
                cursor.execute("UPDATE stock SET count = count - 1 WHERE sku = %s", (sku,))

    One for a process and a database. What its process has not committed when it dies after the
    decision is lost, and its transaction says `COMMIT_FAILED`.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        application: Application | None = None,
        resource_id: str = "",
        greatest_connections: int = DEFAULT_CONNECTIONS,
        wait_ms: int = DEFAULT_WAIT_MS,
        ask_after_ms: int = DEFAULT_ASK_AFTER_MS,
    ) -> None:
        """Hold connections that `connect` makes, anew for each group.

        `connect` returns a connection of PyMySQL, psycopg or sqlite3 (with
        `check_same_thread=False`: the decision comes in another thread), or awaits one of asyncmy,
        asyncpg or aiosqlite. At most `greatest_connections` are held; for one of them, and for the
        turn of a unit on its group's connection, one waits up to `wait_ms`. A group that says
        nothing for `ask_after_ms` is asked for. `resource_id` is the server's own name for the
        database unless given.

        Raises:
            ValueError: a number is out of bounds.
        """
        if greatest_connections < 1 or wait_ms < 0 or ask_after_ms < 1:
            raise ValueError("greatest_connections and ask_after_ms are 1 or more, wait_ms 0")
        self._connect = connect
        self._given_application = application
        self._given_id = resource_id
        self._ask_after_ms = ask_after_ms
        self._attaching = threading.Lock()
        self._resource: LcnResource | None = None
        self._holding = Holding(greatest_connections)
        self.desk: Final = Desk(lambda: self.application, self._opened, self._holding, wait_ms)
        """What parts of units need. For this package."""

    @property
    def application(self) -> Application:
        """Whose resource it is. Raises: NotConfiguredError: nobody's, and none is configured."""
        return self._given_application or configured()

    def connection(self) -> LcnBlock:
        """Return a block whose connection takes part in the transaction it is in.

        All units of one group in one process share one connection, one unit after the other. Within
        a decorated unit the work joins the group when the unit ends; otherwise the block is a unit
        of its own. An exception that leaves the block undoes what was done in it, and nothing else.

        `commit()` of the connection marks what a later `rollback()` goes back to; neither ends
        the local transaction. Outside of transactions it is an ordinary connection, whose work is
        committed at the end of the block, and rolled back when an exception leaves it.

        Raises, at its beginning:
            ConnectionsHeldError: no connection, or no turn on the group's, within `wait_ms`.
            LcnMisuseError: another task or thread of the unit uses it.
            GroupOverError: the group was decided, or lost its session.
            DatabaseUnsuitableError, and what connecting raises.

        Raises, at its end, when it is a unit of its own:
            LcnMisuseError: something has ended the local transaction.
            TransactionNotActiveError, TransactionNotFoundError: the group is gone; it is undone.
            What the client raises when nobody can be asked.
        """
        return LcnBlock(self)

    def held(self) -> list[str]:
        """Return the groups for which a connection is held, by xid."""
        return sorted(each.xid for each in self._holding.all() if each.is_connected)

    async def connected(self) -> Any:
        """Return a new connection. For this package."""
        made = self._connect()
        return await made if inspect.isawaitable(made) else made

    async def _opened(self) -> tuple[Session, bool]:
        made = self._connect()
        awaited = inspect.isawaitable(made)
        session = session_of(await made if awaited else made)
        try:
            if self._resource is None:
                await self._attach(session, awaited=awaited)
        except BaseException:
            with contextlib.suppress(Exception):
                await closed(session.connection)
            raise
        return session, awaited

    async def _attach(self, session: Session, *, awaited: bool) -> None:
        """Raises: DatabaseUnsuitableError"""
        if not awaited and session.dialect.name == "sqlite":
            _check_threads(session.connection)
        identity = await identify(session)
        if session.in_transaction and not session.autocommits:
            await session.rollback()
        with self._attaching:
            if self._resource is None:
                resource_id = self._given_id or identity.resource_id
                resource = LcnResource(
                    resource_id, self.application, self._holding, self._ask_after_ms
                )
                self.desk.resource_id = resource_id
                self.desk.joined = resource.joined
                self.application.attach(resource)
                self._resource = resource


def _check_threads(connection: Any) -> None:
    """Raises: DatabaseUnsuitableError: a connection of sqlite3 does not do."""
    refused: list[Exception] = []

    def look() -> None:
        try:
            connection.execute("SELECT 1").close()
        except Exception as error:
            refused.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    if refused:
        raise DatabaseUnsuitableError(
            "LCN commits in another thread than the unit's: connect with "
            f"sqlite3.connect(..., check_same_thread=False): {refused[0]}"
        )


class LcnBlock:
    """A block of `LcnDataSource.connection`. It is used once."""

    def __init__(self, source: LcnDataSource) -> None:
        self._source = source
        self._unit: Unit | None = None
        self._is_given_up = False
        self._is_own = False
        """The block is the unit."""
        self._part: LcnPart | None = None
        self._lent: Lent | None = None
        self._plain: Any = None
        self._token: Token[Unit | None] | None = None

    def __enter__(self) -> Any:
        drive(self._enter(self._source.application.blocking, threading.get_ident()))
        return self._entered()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forget()
        drive(self._leave(self._source.application.blocking, error))

    async def __aenter__(self) -> Any:
        calls, user = self._source.application.awaiting, asyncio.current_task()
        try:
            await shielded(self._enter(calls, user))
        except asyncio.CancelledError as error:
            # Nobody will leave a block that was never entered.
            self._is_given_up = True
            if self._has_begun:
                await shielded(self._leave(calls, error))
            raise
        return self._entered()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._forget()
        await shielded(self._leave(self._source.application.awaiting, error))

    @property
    def _has_begun(self) -> bool:
        return self._part is not None or self._plain is not None

    async def _enter(self, calls: Calls, user: object) -> None:
        await self._begin(calls, user)
        if self._is_given_up:
            # What protected it from the cancellation has waited for long enough.
            await self._leave(calls, asyncio.CancelledError())

    async def _begin(self, calls: Calls, user: object) -> None:
        xid = current_xid()
        if xid is None:
            self._plain = await self._source.connected()
            return
        unit = current_unit()
        self._is_own = unit is None
        self._unit = unit or Unit(None, xid=xid)
        part = await part_of(self._source.desk, calls, self._unit, user)
        self._lent = Lent(part)
        self._part = part
        if not self._is_own:
            try:
                await self._lent.mark()
            except BaseException:
                self._part = None
                part.held.give_back()
                raise

    def _entered(self) -> Any:
        if self._part is None:
            return self._plain
        assert self._lent is not None
        assert self._unit is not None
        if self._is_own:
            # Blocks within it belong to it.
            self._token = bind(self._unit)
        from tidelock.lcn.connections import LcnConnection  # noqa: PLC0415 (needs wrapt)

        return LcnConnection(self._part.session.connection, self._lent)

    def _forget(self) -> None:
        if self._lent is not None:
            self._lent.is_over = True
        token, self._token = self._token, None
        if token is not None:
            unbind(token)

    async def _leave(self, calls: Calls, error: BaseException | None) -> None:
        if self._part is None:
            await self._leave_plain(error)
            return
        assert self._unit is not None
        assert self._lent is not None
        self._part.held.give_back()
        if self._is_own:
            await self._unit.end(calls, failed=error is not None)
        elif error is not None:
            try:
                await self._lent.rollback()
            except Exception:
                # What was done can no longer be told apart from the rest of the unit.
                self._unit.set_rollback_only()

    async def _leave_plain(self, error: BaseException | None) -> None:
        try:
            session = session_of(self._plain)
            if not session.autocommits:
                await (session.commit() if error is None else session.rollback())
        finally:
            await closed(self._plain)
