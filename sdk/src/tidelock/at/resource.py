"""A database in the AT mode: connections whose work is undone when the transaction rolls back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, ClassVar, Final, Self, TypeVar

from tidelock.application import Application, configured
from tidelock.at.branches import DEFAULT_LOCK_WAIT_MS, Branches
from tidelock.at.deletions import Deletions
from tidelock.at.phase_one import PhaseOne, Rules
from tidelock.at.phase_two import DirtyPolicy, Rollback
from tidelock.at.undo_log import UndoLog
from tidelock.calls import Calls
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.errors import TidelockError
from tidelock.rm.resource import BranchCall, BranchStatus, Mode, PhaseTwoResult, PhaseTwoStatus
from tidelock.sql.catalog import Catalog
from tidelock.sql.databases import Database
from tidelock.sql.drivers import session_of
from tidelock.sql.identity import identify
from tidelock.sql.reading import load_parser
from tidelock.sql.session import Session
from tidelock.sql.sweeping import PAGE, Branch, Guard, clean, sweep
from tidelock.sql.taking_back import take_back_later

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)


class AtResource:
    """Phase two of AT branches, or TXC's, in one database. Implements
    `tidelock.rm.resource.Resource`.
    """

    def __init__(
        self,
        resource_id: str,
        database: Database,
        rules: Rules,
        policy: DirtyPolicy,
        application: Application,
        mode: Mode = "AT",
    ) -> None:
        self.mode: Final[Mode] = mode
        self._application = application
        self._resource_id = resource_id
        self._database = database
        self._rules = rules
        self._rollback = Rollback(rules.undo_log, rules.catalog, policy)
        self._deletions: tuple[asyncio.AbstractEventLoop, Deletions] | None = None

    @property
    def resource_id(self) -> str:
        """The database, by the server's own name for it."""
        return self._resource_id

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        """Say at once that it is committed, as it is; delete its undo row in the background."""
        self._soon().add((call.xid, call.branch_id))
        return PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)

    def _soon(self) -> Deletions:
        loop = asyncio.get_running_loop()
        if self._deletions is None or self._deletions[0] is not loop:
            self._deletions = loop, Deletions(self.delete)
        return self._deletions[1]

    async def delete(self, branches: Sequence[Branch], *, only_finished: bool = False) -> None:
        """Delete undo rows; or only those that undo nothing."""

        async def delete(session: Session) -> None:
            await session.begin()
            reached("at.before-delete")
            await self._rules.undo_log.delete(session, branches, only_finished=only_finished)
            await session.commit()
            reached("at.after-delete")

        await self._database.run(delete)

    async def looked_up(self, look: Callable[[UndoLog, Session], Awaitable[T]]) -> T:
        """Look something up in the table."""

        async def looked(session: Session) -> T:
            found = await look(self._rules.undo_log, session)
            if session.in_transaction:
                await session.rollback()
            return found

        return await self._database.run(looked)

    def own_call(self, xid: str, branch_id: int) -> BranchCall:
        """Return what the coordinator would say, for what it no longer asks for."""
        return BranchCall(
            xid=xid,
            branch_id=branch_id,
            mode=self.mode,
            resource_id=self._resource_id,
            cluster_id=self._application.cluster_id,
        )

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        """Undo the branch."""
        return await self._database.run(lambda session: self._rollback.roll_back(session, call))

    async def take_back(self, xid: str, branch_id: int) -> None:
        """Undo a branch that came when its transaction was over; if need be, later.

        Raises: what the driver raises: it is undone in the background then.
        """
        call = self.own_call(xid, branch_id)

        async def undo(session: Session) -> None:
            reached("at.before-take-back")
            result = await self._rollback.roll_back(session, call)
            if result.status is PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE:
                raise TidelockError(result.detail)
            if result.status is not PhaseTwoStatus.ROLLED_BACK:
                _log.error(
                    "branch %d of %s was committed when its transaction had been rolled back, and "
                    "cannot be undone: %s",
                    *(branch_id, xid, result.detail),
                )
                return
            await session.begin()
            await self._rules.undo_log.delete(session, [(xid, branch_id)], only_finished=True)
            await session.commit()
            reached("at.after-take-back")

        try:
            await self._database.run(undo)
        except Exception:
            take_back_later(
                self._application, lambda: self._database.run(undo), f"branch {branch_id} of {xid}"
            )
            raise

    async def status(self, call: BranchCall) -> BranchStatus:
        """Tell from the undo row what became of the branch."""
        return await self.looked_up(lambda _, session: self._rollback.status(session, call))

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        """Forget tombstones, placeholders, and undo rows that are not deleted yet."""

        async def cleaned(branches: Sequence[Branch]) -> None:
            await clean(self._application, _Guards(self, contextlib.nullcontext()), branches)

        await self._soon().clean([(call.xid, call.branch_id) for call in ended], cleaned)

    async def sweep(self) -> None:
        """Forget the same of all branches whose transactions are over, whoever left them."""
        forgotten = await sweep(self._application, _Guards(self, self._soon().alone))
        _log.info("%d branches of %s were over", forgotten, self._resource_id)


class _Guards:
    """The rows of the table. Implements `tidelock.sql.sweeping.Guards`."""

    def __init__(
        self, resource: AtResource, alone: contextlib.AbstractAsyncContextManager[None]
    ) -> None:
        self._resource = resource
        self._alone = alone

    async def page_after(self, place: int | None) -> Sequence[Guard]:
        return await self._resource.looked_up(
            lambda undo_log, session: undo_log.page(session, place or 0, PAGE)
        )

    async def undoable(self, branches: Sequence[Branch]) -> Sequence[Branch]:
        return await self._resource.looked_up(
            lambda undo_log, session: undo_log.undoable(session, branches)
        )

    async def forget(self, branches: Sequence[Branch], *, even_undoable: bool) -> None:
        async with self._alone:
            await self._resource.delete(branches, only_finished=not even_undoable)

    async def roll_back(self, xid: str, branch_id: int) -> PhaseTwoResult:
        return await self._resource.rollback(self._resource.own_call(xid, branch_id))


class AtDataSource:
    """What an application connects through, so that its SQL takes part in global transactions::

        orders = AtDataSource(lambda: pymysql.connect(host="db", database="orders"))

        @tidelock.global_transaction()
        def buy() -> None:
            with orders.connect() as connection, connection.cursor() as cursor:
                cursor.execute("UPDATE stock SET count = count - 1 WHERE id = %s", (7,))
                connection.commit()

    The table `undo_log` must be there: `tidelock undo-log ddl` prints what makes it. Outside of
    global transactions its connections are as without it.
    """

    mode: ClassVar[Mode] = "AT"

    def __init__(
        self,
        connect: Callable[[], Any] | Callable[[], Awaitable[Any]],
        *,
        application: Application | None = None,
        resource_id: str = "",
        undo_table: str | None = None,
        allow: Collection[str] = (),
        dirty: DirtyPolicy = DirtyPolicy.FAIL,
        lock_wait_timeout_ms: int = DEFAULT_LOCK_WAIT_MS,
    ) -> None:
        """Take part with the database to which `connect` makes new connections.

        `connect` returns a connection of PyMySQL, psycopg or sqlite3, or awaits one of asyncmy,
        asyncpg or aiosqlite. `resource_id` is the server's own name for the database unless given.
        `allow` names tables whose triggers and cascading foreign keys do no harm. `dirty` says what
        becomes of rows that others changed meanwhile. A SELECT … FOR UPDATE waits for
        `lock_wait_timeout_ms` for the rows of other transactions.
        """
        self._connect = connect
        self._given_application = application
        self._given_id = resource_id
        self._undo_table = undo_table
        self._allow = frozenset(allow)
        self._dirty = dirty
        self._lock_wait_ms = lock_wait_timeout_ms
        self._lock = threading.Lock()
        self._known: tuple[AtResource, Rules] | None = None
        self._database: Database | None = None

    @property
    def application(self) -> Application:
        """The application whose resource it is. Raises: NotConfiguredError."""
        return self._given_application or configured()

    def connect(self) -> Any:
        """Return a new connection of a blocking driver, to be used as the driver's own.

        Raises: what connecting raises, DatabaseUnsuitableError, NotConfiguredError.
        """
        return self.wrap(self._connect())

    def wrap(self, connection: Any) -> Any:
        """Return a connection of a blocking driver as one that takes part.

        Raises:
            DatabaseUnsuitableError: its driver or its database cannot take part.
        """
        from tidelock.sql.drivers.proxies import ProxiedConnection  # noqa: PLC0415 (needs wrapt)

        session = session_of(connection)
        work = drive(self.work(session, self.application.blocking, blocking=True))
        return ProxiedConnection(connection, session, work)

    async def aconnect(self) -> Any:
        """Return a new connection of an asynchronous driver, to be used as the driver's own.

        Raises: what connecting raises, DatabaseUnsuitableError, NotConfiguredError.
        """
        return await self.awrap(await self._connect())

    async def awrap(self, connection: Any) -> Any:
        """Return a connection of an asynchronous driver as one that takes part.

        Raises:
            DatabaseUnsuitableError
        """
        from tidelock.sql.drivers.awaiting_proxies import wrap  # noqa: PLC0415 (needs wrapt)

        session = session_of(connection)
        work = await self.work(session, self.application.awaiting, blocking=False)
        return wrap(connection, session, work)

    def wrap_pool(self, pool: Any) -> Any:
        """Return a pool of asyncpg, asyncmy or psycopg_pool as one whose connections take part::

            source = AtDataSource(lambda: asyncpg.connect(dsn))
            pool = source.wrap_pool(await asyncpg.create_pool(dsn))
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("UPDATE stock SET count = count - 1 WHERE id = 7")

        It is used as the pool itself, which must lead to the same database as this source's
        `connect`: branches are undone on connections of that, never on the application's.

        Raises:
            DatabaseUnsuitableError: it is no pool of these, and what to do instead.
        """
        from tidelock.sql.drivers.pools import wrap_pool  # noqa: PLC0415 (needs wrapt)

        return wrap_pool(pool, self.wrap, self.awrap)

    @classmethod
    def of_engine(cls, engine: Any, **options: Any) -> Self:
        """Have an engine of SQLAlchemy 2, sync or async, take part with all its connections.

        `options` are those of `AtDataSource`. Sessions and connections are used as ever::

            engine = create_async_engine("postgresql+asyncpg://db/orders")
            AtDataSource.of_engine(engine)
        """
        from tidelock.sql.drivers.sqlalchemy_hooks import install, opener  # noqa: PLC0415

        connect, blocking = opener(engine)
        source = cls(connect, **options)
        install(engine, source, blocking=blocking)
        return source

    @classmethod
    def of_django(cls, alias: str = "default", **options: Any) -> Self:
        """Have a database of Django's `DATABASES` take part, with all that the ORM does in it.

        Call it once, as in `AppConfig.ready`. `options` are those of `AtDataSource`.
        """
        from tidelock.sql.drivers.django_hooks import install, opener  # noqa: PLC0415

        source = cls(opener(alias), **options)
        install(alias, source.wrap)
        return source

    async def work(self, session: Session, calls: Calls, *, blocking: bool) -> PhaseOne:
        """Return what is done around a connection's local transactions, for hooks.

        `calls` are the application's `blocking` or `awaiting` ones, as the connection is.

        Raises:
            DatabaseUnsuitableError
        """
        resource, rules = await self._attached(session, blocking=blocking)
        branches = Branches(
            self.application,
            calls,
            resource.resource_id,
            lock_wait_ms=self._lock_wait_ms,
            mode=self.mode,
        )
        return self._phase_one(session, rules, branches, resource)

    def _phase_one(
        self, session: Session, rules: Rules, branches: Branches, resource: AtResource
    ) -> PhaseOne:
        return PhaseOne(session, rules, branches, resource.take_back)

    def close(self) -> None:
        """Close the connections that are kept for phase two. They are opened again when needed."""
        if self._database is not None:
            self._database.close()

    async def _attached(self, session: Session, *, blocking: bool) -> tuple[AtResource, Rules]:
        if self._known is not None:
            return self._known
        resource_id = self._given_id
        identity = await identify(session)
        if session.in_transaction and not session.autocommits:
            await session.rollback()
        load_parser(session.dialect)
        with self._lock:
            if self._known is None:
                rules = Rules(
                    catalog=Catalog(),
                    undo_log=UndoLog(session.dialect, self._undo_table),
                    allow=self._allow,
                )
                self._database = database = Database(self._connect, blocking=blocking)
                resource = AtResource(
                    resource_id or identity.resource_id,
                    database,
                    rules,
                    self._dirty,
                    self.application,
                    self.mode,
                )
                self.application.attach(resource)
                self._known = resource, rules
            return self._known
