"""A database in the LCN mode: connections that are held open until the group is decided."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextvars import Token
from typing import Any, Final, Self

from tidelock.application import Application, configured
from tidelock.calls import Calls
from tidelock.lcn.errors import LcnMisuseError
from tidelock.lcn.frameworks import OnGroups
from tidelock.lcn.held import Holding
from tidelock.lcn.lending import Lent
from tidelock.lcn.made import Made, made_by
from tidelock.lcn.part import Desk
from tidelock.lcn.phase_two import LcnResource
from tidelock.sql.blocks import Connect, ConnectionBlock, connected
from tidelock.sql.drivers import session_of
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.identity import identify
from tidelock.units.unit import Unit, bind, unbind

DEFAULT_CONNECTIONS: Final = 20
DEFAULT_WAIT_MS: Final = 10_000
DEFAULT_ASK_AFTER_MS: Final = 30_000


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
        self._open: Callable[[], Awaitable[Made]] = lambda: made_by(connect)
        self._lends_blocks = True
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
        if not self._lends_blocks:
            raise LcnMisuseError(
                "of an async engine, use the engine's own sessions and connections"
            )
        return LcnBlock(self)

    @classmethod
    def of_engine(cls, engine: Any, **options: Any) -> Self:
        """Have an engine of SQLAlchemy 2, sync or async, take part with all its connections.

        `options` are those of `LcnDataSource`. Sessions and connections are used as ever. In a
        transaction, what one of them does from its first statement to its commit or rollback is
        what a block of `connection()` is; all go to the group's one connection, which comes from a
        second pool of the engine's kind, as large as `greatest_connections`::

            engine = create_async_engine("postgresql+asyncpg://db/orders")
            LcnDataSource.of_engine(engine)

        Raises:
            DatabaseUnsuitableError: the engine takes part already.
        """
        from tidelock.sql.drivers.sqlalchemy_groups import install  # noqa: PLC0415
        from tidelock.sql.drivers.sqlalchemy_hooks import InGreenlets, opener  # noqa: PLC0415

        connect, blocking = opener(engine)
        source = cls(connect, **options)

        def calls() -> Calls:
            application = source.application
            return application.blocking if blocking else InGreenlets(application.client)

        user = threading.get_ident if blocking else asyncio.current_task
        lend = install(engine, lambda: OnGroups(source.desk, calls, user), blocking=blocking)

        async def open_one() -> Made:
            lent = lend()
            return Made(
                connection=lent.connection,
                session=lent.session,
                awaited=lent.awaited,
                begin=lent.session.begin,
                let_go=lent.let_go,
                let_go_awaited=None if blocking else lent.let_go_awaited,
                loop=lent.loop,
            )

        source._open = open_one
        source._lends_blocks = blocking
        return source

    @classmethod
    def of_django(cls, alias: str = "default", **options: Any) -> Self:
        """Have a database of Django's `DATABASES` take part, with all that the ORM does in it.

        Call it once, as in `AppConfig.ready`. `options` are those of `LcnDataSource`. In a
        transaction an outermost `atomic` block is what a block of `connection()` is, and so is
        each statement outside of them.
        """
        from tidelock.sql.drivers.django_hooks import install, setter_up  # noqa: PLC0415
        from tidelock.sql.drivers.switching import SwitchingConnection  # noqa: PLC0415

        source = cls(setter_up(alias), **options)

        def wrap(connection: Any) -> Any:
            on_groups = OnGroups(
                source.desk, lambda: source.application.blocking, threading.get_ident
            )
            return SwitchingConnection(connection, session_of(connection), on_groups, is_lent=True)

        install(alias, wrap)
        return source

    def held(self) -> list[str]:
        """Return the groups for which a connection is held, by xid."""
        return sorted(each.xid for each in self._holding.all() if each.is_connected)

    async def connected(self) -> Any:
        """Return a new connection. For this package."""
        return await connected(self._connect)

    async def _opened(self) -> Made:
        made = await self._open()
        try:
            if self._resource is None:
                await self._attach(made)
        except BaseException:
            with contextlib.suppress(Exception):
                await made.let_go()
            raise
        return made

    async def _attach(self, made: Made) -> None:
        """Raises: DatabaseUnsuitableError"""
        session = made.session
        if made.awaited is None and session.dialect.name == "sqlite":
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
                self.desk.take_back = resource.take_back
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


class LcnBlock(ConnectionBlock):
    """A block of `LcnDataSource.connection`. It is used once."""

    def __init__(self, source: LcnDataSource) -> None:
        super().__init__(source)
        self._source = source
        self._work: Lent | None = None
        self._token: Token[Unit | None] | None = None

    async def _begin(self, calls: Calls, user: object) -> None:
        self._work = await Lent.begin(self._source.desk, calls, user)

    def _lent(self) -> Any:
        assert self._work is not None
        if self._work.is_own:
            # Blocks within it belong to it.
            self._token = bind(self._work.unit)
        from tidelock.lcn.connections import LcnConnection  # noqa: PLC0415 (needs wrapt)

        return LcnConnection(self._work.connection, self._work)

    def _forget(self) -> None:
        if self._work is not None:
            self._work.is_over = True
        token, self._token = self._token, None
        if token is not None:
            unbind(token)

    async def _end(self, calls: Calls, error: BaseException | None) -> None:
        assert self._work is not None
        await self._work.end(calls, failed=error is not None)
