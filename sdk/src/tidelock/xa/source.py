"""A database whose work takes part in global transactions by XA."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextvars import ContextVar, Token
from types import MappingProxyType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from tidelock.application import Application, configured
from tidelock.calls import Calls
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.rm.resource import (
    BranchCall,
    BranchStatus,
    Mode,
    PhaseTwoResult,
    PhaseTwoStatus,
)
from tidelock.rm.workers import in_worker
from tidelock.sql.blocks import Connect, ConnectionBlock, connected, two_at_once
from tidelock.sql.drivers import closed, session_of
from tidelock.sql.identity import identify
from tidelock.sql.session import Session
from tidelock.transaction.context import current
from tidelock.transaction.handle import Role, Transaction
from tidelock.transaction.hooks import TransactionHooks
from tidelock.xa.branch import XaBranch
from tidelock.xa.connections import autocommitting, lent
from tidelock.xa.errors import XaBranchError, XaMisuseError
from tidelock.xa.naming import BranchName
from tidelock.xa.phase_two import commit, rollback
from tidelock.xa.reconciler import Unsettled, reconcile
from tidelock.xa.servers import XaServer, server_of

T = TypeVar("T")

_Open = Mapping[tuple[int, str], XaBranch]

_open: ContextVar[_Open] = ContextVar("tidelock-xa-open", default=MappingProxyType({}))
"""Branches of blocks that the running code is in, where this process did not begin the transaction:
by source and xid."""


class XaSource:
    """A database, as a resource of mode XA. One for a process and a database."""

    mode: Mode = "XA"

    def __init__(
        self,
        connect: Connect,
        *,
        application: Application | None = None,
        resource_id: str = "",
    ) -> None:
        """`connect` makes a new connection each time; pools of the application are not used.

        The connection of a branch is closed once the branch is prepared, so that any process can
        end it. `resource_id` is what the server says of itself unless it is given; all processes
        that use the database must come to the same.
        """
        self._connect = connect
        self._application = application
        self._resource_id = resource_id
        self._server: XaServer | None = None
        self._is_async = False
        self._at_work: set[BranchName] = set()
        """Branches of this process that are neither prepared nor rolled back yet."""
        self._launched: WeakKeyDictionary[Transaction, XaBranch] = WeakKeyDictionary()
        self._opening: set[Transaction] = set()
        """Those whose branch is being registered and started."""
        self._claiming = threading.Lock()

    @property
    def application(self) -> Application:
        """Whose resource it is. Raises: NotConfiguredError: nobody's, and none is configured."""
        return self._application or configured()

    @property
    def resource_id(self) -> str:
        """Its identity. Raises: RuntimeError: it is not attached yet."""
        if self._server is None:
            raise RuntimeError("the source is not attached: call `attach` (or `await aattach`)")
        return self._resource_id

    @property
    def server(self) -> XaServer:
        """How its server does XA. Raises: RuntimeError: it is not attached yet."""
        if self._server is None:
            raise RuntimeError("the source is not attached: call `attach` (or `await aattach`)")
        return self._server

    def attach(self) -> None:
        """Find out what the database is, and answer for its branches in this process from now on.

        Raises:
            DatabaseUnsuitableError: it cannot prepare transactions, and what to do.
        """
        drive(self.aattach())

    async def aattach(self) -> None:
        """As `attach`, for a driver that is awaited."""
        made = self._connect()
        self._is_async = inspect.isawaitable(made)
        connection = await made if inspect.isawaitable(made) else made
        session = session_of(connection)
        try:
            server = await server_of(session)
            self._resource_id = self._resource_id or (await identify(session)).resource_id
        finally:
            await session.close()
        self._server = server
        self.application.attach(self)

    def connection(self) -> XaBlock:
        """Return a block whose connection takes part in the transaction it is in.

        Blocks of one transaction in one process have one connection and one branch, so they see
        each other's work and never wait for it. It is prepared when the transaction's block ends
        well, or, when another process began the transaction, with the outermost of these blocks.
        Outside of transactions it is an ordinary connection whose work is committed at the end of
        the block, and rolled back when an exception leaves it.

        `commit()` of the connection does nothing within a transaction; `rollback()` has the branch
        rolled back, and so the transaction.

        Raises, at its beginning:
            RuntimeError: the source is not attached.
            XaMisuseError: another task or thread uses the connection.
            What `Branches.register` and the driver raise.

        Raises, at its end:
            XaBranchError: the branch could not be prepared.
        """
        return XaBlock(self)

    # --- the second phase, on the application's loop

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        """Commit a prepared branch."""
        return await self._in_session(lambda session: commit(self.server, session, call))

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        """Roll a branch back, prepared or not."""
        if BranchName(call.xid, call.branch_id) in self._at_work:
            # Its own block ends it: nothing can be prepared that was not reported.
            return PhaseTwoResult(
                status=PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE,
                detail="its statements are being executed in this process",
                not_found=True,
            )
        session_id = self.application.health().session_id
        owner = call.application_data or {}
        is_ours = isinstance(owner, dict) and owner.get("sessionId") == session_id
        return await self._in_session(
            lambda session: rollback(self.server, session, call, owner_confirms=is_ours)
        )

    async def status(self, call: BranchCall) -> BranchStatus:
        """PREPARED when the database lists it; else nobody can tell."""
        name = BranchName(call.xid, call.branch_id)
        listed = await self._in_session(self.server.prepared)
        return BranchStatus.PREPARED if name in listed else BranchStatus.UNKNOWN

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        """Nothing is kept of branches that have ended."""

    async def sweep(self) -> None:
        """Nothing is kept, so there is nothing to look through."""

    async def prepared(self) -> list[BranchName]:
        """Return the branches that the database holds prepared; on MySQL those of all databases."""
        return await self._in_session(self.server.prepared)

    def reconcile(self) -> list[Unsettled]:
        """End what is left prepared of transactions that have ended; return what cannot be judged.

        Do so when the application starts, and every now and then.

        Raises: what the driver and the client raise.
        """
        return self.application.client.run(lambda client: reconcile(self, client))

    async def areconcile(self) -> list[Unsettled]:
        """As `reconcile`, and other tasks of the caller's loop go on meanwhile."""
        return await self.application.awaiting(lambda client: reconcile(self, client))

    async def _in_session(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Do something in a session that is in no transaction, on the application's loop."""
        if self._is_async:
            return await self._worked(work)
        return await in_worker(lambda: drive(self._worked(work)))

    async def _worked(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        connection = await self.connected()
        session = session_of(connection)
        try:
            await autocommitting(connection)
            return await work(session)
        finally:
            await session.close()

    async def connected(self) -> Any:
        """Return a new connection. For this package."""
        return await connected(self._connect)

    # --- the first phase, in the caller's thread or task

    async def branch(self, calls: Calls, user: object) -> XaBranch:
        """For blocks, within a transaction. Return the branch that one works for, in its hands."""
        found = current()
        assert found is not None
        assert found.xid is not None
        xid, launched = found.xid, _launched(found.transaction)
        if launched is None:
            branch = _open.get().get((id(self), xid)) or await self._begun(calls, xid)
        else:
            branch = self._found_or_claimed(launched) or await self._launch(calls, xid, launched)
        branch.take(user)
        return branch

    def _found_or_claimed(self, launched: Transaction) -> XaBranch | None:
        """Return the branch of a launcher, or None: then it is the caller's to begin."""
        with self._claiming:
            found = self._launched.get(launched)
            if found is None:
                if launched in self._opening:
                    raise two_at_once(XaMisuseError)
                self._opening.add(launched)
        return found

    async def _launch(self, calls: Calls, xid: str, launched: Transaction) -> XaBranch:
        try:
            branch = await self._begun(calls, xid)
            branch.is_launchers = True
            launched.add_hooks(_AtTheEnd(self, branch, calls))
            self._launched[launched] = branch
        finally:
            self._opening.discard(launched)
        return branch

    async def _begun(self, calls: Calls, xid: str) -> XaBranch:
        connection = await self.connected()
        try:
            branch = await XaBranch.begin(
                self.application, calls, self.server, self.resource_id, connection, xid
            )
        except BaseException:
            await session_of(connection).close()
            raise
        self._at_work.add(branch.name)
        return branch

    def remember(self, branch: XaBranch) -> Token[_Open] | None:
        """For blocks, in their own context: let the blocks within find a participant's branch.

        None: they find it already.
        """
        opened, key = _open.get(), (id(self), branch.name.xid)
        if branch.is_launchers or opened.get(key) is branch:
            return None
        return _open.set(MappingProxyType({**opened, key: branch}))

    async def done(self, branch: XaBranch, calls: Calls, error: BaseException | None) -> None:
        """For blocks. One that works for the branch has ended."""
        branch.give_back()
        if error is not None:
            await self.end(branch, calls, error)
        elif not branch.in_use and not branch.is_launchers:
            await self.end(branch, calls, None)

    async def end(self, branch: XaBranch, calls: Calls, error: BaseException | None) -> None:
        """Prepare a branch, or undo it, and close its connection."""
        was_active = branch.is_active
        try:
            if error is None:
                await branch.prepare(calls)
            else:
                await branch.fail(calls, error)
        finally:
            if was_active:
                try:
                    await closed(branch.connection)
                    if branch.is_late:
                        await self._undo_late(branch.name)
                finally:
                    # Whatever went wrong, the coordinator's rollback is not held up any longer.
                    self._at_work.discard(branch.name)

    async def _undo_late(self, name: BranchName) -> None:
        reached("xa.before-late-rollback")
        call = BranchCall(
            xid=name.xid, branch_id=name.branch_id, mode="XA", resource_id=self.resource_id
        )
        await self._worked(
            lambda session: rollback(self.server, session, call, owner_confirms=True)
        )


class XaBlock(ConnectionBlock):
    """A block of `XaSource.connection`. It is used once."""

    def __init__(self, source: XaSource) -> None:
        super().__init__(source)
        self._source = source
        self._branch: XaBranch | None = None
        self._remembered: Token[_Open] | None = None

    async def _begin(self, calls: Calls, user: object) -> None:
        self._branch = await self._source.branch(calls, user)

    def _lent(self) -> Any:
        assert self._branch is not None
        self._remembered = self._source.remember(self._branch)
        return lent(self._branch.connection, self._branch)

    def _forget(self) -> None:
        token, self._remembered = self._remembered, None
        if token is not None:
            _open.reset(token)

    async def _end(self, calls: Calls, error: BaseException | None) -> None:
        assert self._branch is not None
        await self._source.done(self._branch, calls, error)


class _AtTheEnd(TransactionHooks):
    """Ends a branch with the block of its transaction."""

    def __init__(self, source: XaSource, branch: XaBranch, calls: Calls) -> None:
        self._source = source
        self._branch = branch
        self._calls = calls

    def before_commit(self, transaction: Transaction) -> Awaitable[None]:
        """Prepare it: what it raises rolls everything back."""
        return self._source.end(self._branch, self._calls, None)

    def before_rollback(self, transaction: Transaction) -> Awaitable[None]:
        """Undo it at once: its row locks in the database need not wait for the decision."""
        return self._source.end(self._branch, self._calls, XaBranchError("rolled back"))


def _launched(transaction: Transaction | None) -> Transaction | None:
    """Return the launcher's transaction, when the launcher is in this process."""
    if transaction is None:
        return None
    launched = transaction._launched or transaction
    return launched if launched.role is Role.LAUNCHER else None
