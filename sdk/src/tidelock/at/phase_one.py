"""Phase one: what happens around the statements and the commit of one connection.

For each local transaction: images before and after each statement, the application's own text in
between; then, all in the same local transaction, the branch is registered with the rows that it
changed, its undo row is written, and the local transaction committed; then it is reported. A
registration never waits while the database's own locks are held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import ClassVar

import msgspec

from tidelock.at.batches import BatchTracer, divided
from tidelock.at.branches import Branches
from tidelock.at.checks import check_table, refuse
from tidelock.at.errors import (
    ImageMismatchError,
    LocalTransactionLostError,
    MixedTransactionsError,
    TooManyRowsError,
)
from tidelock.at.images import GREATEST_ROWS, Image
from tidelock.at.local_work import Keys, Row, Work
from tidelock.at.tracing import Doubt, MeansAnotherError, Tracer
from tidelock.at.undo_log import UndoLog
from tidelock.crash_points import reached
from tidelock.errors import TidelockError, TransactionNotActiveError, TransactionNotFoundError
from tidelock.sql.catalog import Catalog
from tidelock.sql.errors import AutocommitError
from tidelock.sql.interception import BatchCall, StatementCall, one_by_one
from tidelock.sql.reading import understand
from tidelock.sql.resolution import Meant, Resolution
from tidelock.sql.session import Session, release, rollback_to, savepoint
from tidelock.sql.statements import Kind, Statement
from tidelock.transaction.context import Binding, current
from tidelock.transaction.verdicts import was_rolled_back

_IN_BATCHES = (Kind.INSERT, Kind.UPDATE, Kind.DELETE)

_PROVED_BY_IMAGES = (Kind.UPDATE, Kind.DELETE)
"""Whose rows are looked at before they run."""

_BATCH = "tidelock_batch"


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What is common to all connections of a resource."""

    catalog: Catalog
    undo_log: UndoLog
    allow: frozenset[str] = frozenset()
    """Tables whose triggers and cascading foreign keys their owner has judged."""


class PhaseOne:
    """AT around one connection. Implements `tidelock.sql.interception.LocalWork`."""

    _takes_for_granted: ClassVar[bool] = True
    """A statement means what it meant before until its image says otherwise."""

    def __init__(
        self,
        session: Session,
        rules: Rules,
        branches: Branches,
        take_back: Callable[[str, int], Awaitable[None]],
    ) -> None:
        """`take_back` undoes a branch that nobody asks for any more, on another connection and the
        application's loop.
        """
        self._take_back = take_back
        self._session = session
        self._rules = rules
        self._branches = branches
        self._resolution = Resolution(session, rules.catalog)
        self._work: Work | None = None
        self._is_busy = False

    @property
    def is_under_way(self) -> bool:
        """Rows were looked at for a global transaction, or a global lock."""
        return self._work is not None

    # Statements

    async def execute(self, call: StatementCall) -> None:
        """Have a statement run with its images."""
        binding = current()
        if binding is None or (binding.xid is None and not binding.global_lock):
            await self._outside(call)
            return
        statement = understand(
            self._session.dialect,
            call.text,
            call.style or self._session.style,
            has_values=call.values is not None,
        )
        match statement.kind:
            case Kind.BEGIN if self._work is not None:
                # MySQL commits what is under way when another one begins.
                refuse(statement, "a local transaction is under way; commit it first")
            case Kind.READ | Kind.BEGIN:
                await call.run()
            case Kind.SETTING:
                if self._work is not None:
                    self._work.meant.clear()
                await call.run()
            case Kind.COMMIT:
                await self.commit(_running(call))
            case Kind.ROLLBACK:
                await self.rollback(_running(call))
            case Kind.SAVEPOINT | Kind.ROLLBACK_TO | Kind.RELEASE:
                await self._savepoint(binding, statement, call)
            case _:
                await self._traced(binding, statement, call)

    async def execute_batch(self, batch: BatchCall) -> None:
        """Have a statement run with many groups of values, with images of them all."""
        binding = current()
        if binding is None or len(batch.groups) < 2:
            await one_by_one(self, batch)
            return
        style = batch.style or self._session.style
        statement = understand(self._session.dialect, batch.text, style, has_values=True)
        seen = binding.xid is not None or binding.global_lock
        if not seen or statement.kind not in _IN_BATCHES:
            await one_by_one(self, batch)
            return
        with self._alone():
            is_first = self._is_first
            work = await self._entered(binding)
            meant = await self._asked(work, statement)
            await self._keep_writers_out()
            work.is_untouched = is_first
        for groups in divided(statement, meant.table, batch.groups):
            if len(groups) == 1 or not await self._traced_together(
                work, BatchTracer(self._session, statement, meant.table, batch, groups)
            ):
                for group in groups:
                    await self.execute(batch.one(group))

    async def _traced_together(self, work: Work, tracer: BatchTracer) -> bool:
        """Run a batch; False, with nothing done, when one of its groups is the reason of an error.

        Then each is to be run by itself: the application may go on after those that succeeded.
        """
        with self._alone():
            is_first, work.is_untouched = work.is_untouched, False
            try:
                await self._lock_first(work, tracer, is_first=is_first)
            except BaseException as error:
                await self._spoil(work, tracer, error)
                raise
            await savepoint(self._session, _BATCH)
            try:
                change, image = await tracer.trace()
                await release(self._session, _BATCH)
            except BaseException as error:
                if not await self._went_back(error):
                    await self._spoil(work, tracer, error)
                    raise
                if self._session.dialect.is_transient(error):
                    raise
                return False
            if change is not None:
                work.changes.append(change)
                await self._note(work, image)
            return True

    async def _went_back(self, error: BaseException) -> bool:
        """Undo what a batch has done in the local transaction; say whether that could be done."""
        if not isinstance(error, Exception):
            return False
        try:
            await rollback_to(self._session, _BATCH)
            await release(self._session, _BATCH)
        except Exception:
            return False
        return True

    async def _outside(self, call: StatementCall) -> None:
        if self._work is None:
            await call.run()
            return
        word = call.text.lstrip()[:8].upper()
        if word.startswith("COMMIT"):
            await self.commit(_running(call))
        elif word == "ROLLBACK" and " TO" not in call.text.upper():
            await self.rollback(_running(call))
        else:
            raise MixedTransactionsError(
                f"this connection's local transaction belongs to {self._whose(self._work)}; commit "
                "it within that, or use another connection for what does not belong to it"
            )

    @staticmethod
    def _whose(work: Work) -> str:
        return work.binding.xid or "a global lock"

    async def _traced(self, binding: Binding, statement: Statement, call: StatementCall) -> None:
        with self._alone():
            is_first = self._is_first
            work = await self._entered(binding)
            meant, is_proved = await self._meant(work, statement)
            await self._keep_writers_out()
            work.is_untouched = False
            tracer = self._tracer(work, statement, call, meant, is_proved=is_proved)
            try:
                if statement.kind is Kind.READ_LOCKING:
                    await self._locking(work, tracer, statement, is_first=is_first)
                    return
                await self._lock_first(work, tracer, is_first=is_first)
                try:
                    change, image = await tracer.trace()
                except MeansAnotherError as other:
                    meant = other.meant
                    tracer = self._tracer(work, statement, call, meant, is_proved=True)
                    change, image = await tracer.trace()
            except BaseException as error:
                self._resolution.revoke(statement)
                if self._may_be_of_change(error):
                    self._rules.catalog.forget(meant.table)
                await self._spoil(work, tracer, error)
                raise
            self._resolution.grant(statement, meant)
            if statement.table is not None:
                work.meant[statement.table] = meant
            if change is None:
                return
            work.changes.append(change)
            await self._note(work, image)

    def _may_be_of_change(self, error: BaseException) -> bool:
        """Say whether a statement or its images may have failed since the table is another one."""
        if not isinstance(error, Exception) or isinstance(error, TidelockError):
            return False
        kinds = [kind.__name__ for kind in type(error).__mro__]
        # The database has understood it when it objects to values.
        is_about_values = any("Integrity" in kind for kind in kinds)
        return not (is_about_values or self._session.dialect.is_transient(error))

    @property
    def _is_first(self) -> bool:
        """Nothing was done in the local transaction, which can begin anew."""
        if self._work is not None:
            return self._work.is_untouched
        # PyMySQL does not hear from the answer to a SELECT that a transaction is under way.
        return not self._session.in_transaction

    async def _entered(self, binding: Binding) -> Work:
        """Return what is under way, before rows are looked at."""
        if self._session.autocommits:
            raise AutocommitError(
                "the connection commits each statement by itself; begin a local transaction, or "
                "turn autocommit off"
            )
        if binding.xid is not None:
            await self._rules.undo_log.check(self._session)
        return self._begun(binding)

    async def _keep_writers_out(self) -> None:
        """From here to the commit nobody else writes, so images and statements agree: SQLite."""
        if self._session.dialect.writes_alone:
            await self._session.begin()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Do what another task or thread would disturb: a statement with its images, a commit.

        Raises:
            MixedTransactionsError: another one is at it.
        """
        if self._is_busy:
            raise MixedTransactionsError(
                "two tasks or threads use this connection at once, so that nobody could tell which "
                "rows a statement changes: give each its own connection"
            )
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    async def _spoil(self, work: Work, tracer: Tracer, error: BaseException) -> None:
        """See whether what was done before a statement that failed can still be committed."""
        if work.changes and (
            self._session.dialect.ends_transaction(error) or not await self._is_open()
        ):
            # What follows would be committed without what was done before.
            work.spoiled = (error, 0)
        elif tracer.has_run and tracer.is_traced:
            # Its effect is there and not known, so none of it may be committed.
            work.spoiled = (error, len(work.savepoints))

    def _begun(self, binding: Binding) -> Work:
        work = self._work
        if work is None:
            work = self._work = self._new_work(binding)
        elif work.binding.xid != binding.xid:
            raise MixedTransactionsError(
                f"this connection's local transaction belongs to {self._whose(work)}, and cannot "
                f"belong to {binding.xid or 'a global lock'} as well; commit it first"
            )
        return work

    # What a statement is about

    def _tracer(
        self,
        work: Work,
        statement: Statement,
        call: StatementCall,
        meant: Meant,
        *,
        is_proved: bool,
    ) -> Tracer:
        async def ask() -> Meant:
            return await self._asked(work, statement)

        return Tracer(
            self._session,
            statement,
            meant.table,
            call,
            None if is_proved else Doubt(meant, ask),
        )

    async def _meant(self, work: Work, statement: Statement) -> tuple[Meant, bool]:
        """Return what a statement means, and whether that is known for sure.

        Else it is what it meant before, and the image of its rows is to prove that it still does.
        """
        assert statement.table is not None
        if self._takes_for_granted and statement.kind in _PROVED_BY_IMAGES:
            meant = self._resolution.granted(statement)
            if meant is not None:
                if statement.kind is Kind.DELETE:
                    await self._compared(work, meant)
                if meant.table.is_current:
                    return meant, work.meant.get(statement.table) == meant
        return await self._asked(work, statement), True

    async def _asked(self, work: Work, statement: Statement) -> Meant:
        """Ask what a statement means.

        Raises:
            StatementRefusedError, DatabaseUnsuitableError
        """
        name, catalog = statement.table, self._rules.catalog
        assert name is not None
        meant = work.meant.get(name)
        if meant is None:
            meant = await self._resolution.meant(name, work.meant.values())
        if any(meant.table.column(each.name) is None for each in statement.columns):
            # It has changed since it was looked at.
            catalog.forget(meant.table)
            meant = await self._resolution.meant(name, work.meant.values())
        if statement.kind is Kind.DELETE:
            await self._compared(work, meant)
            if not meant.table.is_current:
                meant = await self._resolution.meant(name, work.meant.values())
        check_table(statement, meant.table, self._rules.allow)
        work.meant[name] = meant
        return meant

    async def _compared(self, work: Work, meant: Meant) -> None:
        """Forget a table that is not as it is known: of a row that goes, all must be kept."""
        table = meant.table
        if table.full_name in work.described:
            return
        name = self._session.dialect.qualified(table.schema, table.name)
        names = await self._session.describe(f"SELECT * FROM {name} WHERE 1 = 0")
        if set(names) != {column.name for column in table.columns}:
            self._rules.catalog.forget(table)
        work.described.add(table.full_name)

    def _new_work(self, binding: Binding) -> Work:
        return Work(binding)

    async def _lock_first(self, work: Work, tracer: Tracer, *, is_first: bool) -> None:
        """Lock the rows of a statement before it runs: not in AT, which locks them at the end."""

    async def _note(self, work: Work, image: Image) -> None:
        name = image.table.full_name
        work.rows += [(name, parts) for parts in image.rows]
        if len(work.rows) > GREATEST_ROWS and sum(map(len, work.keys().values())) > GREATEST_ROWS:
            raise TooManyRowsError(
                f"this local transaction changes more than {GREATEST_ROWS} rows; commit in between"
            )

    async def _locking(
        self, work: Work, tracer: Tracer, statement: Statement, *, is_first: bool
    ) -> None:
        """Run SELECT … FOR UPDATE, whose rows no other global transaction may have."""
        turn = 0
        try:
            while True:
                keys = await self._locked_rows(tracer)
                if not keys:
                    return
                if not is_first:
                    await self._branches.check(work.binding, keys)
                    return
                # Nothing was done yet, so nothing is lost when this lets go of its locks to wait.
                if await self._branches.are_free(work.binding, keys):
                    return
                await self._session.rollback()
                await self._branches.leave(work.binding, turn)
                turn = 0
                turn = await self._branches.turn(work.binding, keys)
                if self._session.dialect.writes_alone:
                    await self._session.begin()
        finally:
            await self._branches.leave(work.binding, turn)

    @staticmethod
    async def _locked_rows(tracer: Tracer) -> Keys:
        image = await tracer.locked()
        if image is None or not image.rows:
            return {}
        return {image.table.full_name: [list(parts) for parts in image.rows]}

    async def _savepoint(self, binding: Binding, statement: Statement, call: StatementCall) -> None:
        if statement.kind is Kind.RELEASE:
            await self._release(statement, call)
            return
        begins = self._session.dialect.writes_alone and not self._session.in_transaction
        await call.run()
        if statement.kind is Kind.SAVEPOINT:
            if self._work is None:
                self._work = self._new_work(binding)
            self._work.set_savepoint(statement.savepoint, begins=begins)
        elif self._work is not None:
            await self._let_go(self._work, self._work.go_back(statement.savepoint))

    async def _release(self, statement: Statement, call: StatementCall) -> None:
        work = self._work
        at = None if work is None else work.place_of(statement.savepoint)
        if at is None or work is None:
            if work is not None and work.changes and self._session.dialect.writes_alone:
                # It may be what has begun the transaction, and would commit it.
                refuse(
                    statement,
                    "the savepoint was set before the global transaction began; commit instead, or "
                    "set it within",
                )
            await call.run()
        elif work.savepoints[at].begins:
            await self.commit(_running(call))
        else:
            await call.run()
            del work.savepoints[at:]

    async def _let_go(self, work: Work, rows: Sequence[Row]) -> None:
        """Give rows back that were locked since a savepoint: none are, in AT."""

    # The ends

    async def commit(self, commit: Callable[[], Awaitable[None]]) -> None:
        """Register, write the undo row, commit, report.

        Raises:
            RowsLockedError: the local transaction was rolled back; wait for the rows, run it again.
            DeadlockError, TransactionNotActiveError, …: it was rolled back as well.
        """
        with self._alone():
            await self._commit(commit)

    async def _commit(self, commit: Callable[[], Awaitable[None]]) -> None:
        work, self._work = self._work, None
        if work is not None and work.spoiled is not None:
            await self._roll_back_quietly()
            await self._abandoned(work)
            raise ImageMismatchError(
                f"the local transaction was rolled back: {work.spoiled[0]}"
            ) from work.spoiled[0]
        if work is None or not self._has_branch(work):
            await commit()
            return
        if not await self._is_open():
            await self._abandoned(work)
            raise LocalTransactionLostError(
                "the local transaction has ended without commit(): the connection was lost and "
                f"made anew, or something else ended it. Of {self._whose(work)}, it changed "
                + ", ".join(sorted(work.keys()))
            )
        if work.binding.xid is None:
            await self._checked(work)
            await commit()
            return
        xid = work.binding.xid
        try:
            reached("at.before-register")
            branch_id = await self._registered(xid, work)
            reached("at.after-register")
        except BaseException:
            await self._roll_back_quietly()
            raise
        try:
            reached("at.before-undo-row")
            await self._rules.undo_log.insert(
                self._session,
                xid,
                branch_id,
                work.changes,
                cluster_id=self._branches.cluster_id,
            )
            reached("at.after-undo-row")
            reached("at.before-local-commit")
            await commit()
            reached("at.after-local-commit")
        except BaseException as error:
            await self._roll_back_quietly()
            await self._branches.failed(xid, branch_id, error)
            raise
        await self._finished(work.binding, branch_id)

    def _has_branch(self, work: Work) -> bool:
        return bool(work.changes)

    async def _registered(self, xid: str, work: Work) -> int:
        return await self._branches.register(xid, work.keys())

    async def _abandoned(self, work: Work) -> None:
        """The local transaction was rolled back: in AT nobody knows of it."""

    async def _finished(self, binding: Binding, branch_id: int) -> None:
        """The local transaction is committed."""
        await self.report(binding, branch_id)

    async def report(self, binding: Binding, branch_id: int) -> None:
        """Say that a branch is done.

        Raises: what `Branches.report` raises. If it was rolled back before, it is undone.
        """
        reached("at.before-report")
        try:
            await self._branches.done(binding, branch_id, self._take_back)
        except (TransactionNotActiveError, TransactionNotFoundError) as refused:
            if was_rolled_back(refused):
                # Its guards may be gone: then it met none, and nobody asks for it any more.
                assert binding.xid is not None
                await self._branches.on_the_loop(self._take_back, binding.xid, branch_id)
            raise
        reached("at.after-report")

    async def _is_open(self) -> bool:
        """Say whether the local transaction is still under way."""
        try:
            if not self._session.in_transaction and self._session.dialect.name == "mysql":
                # Drivers do not look at what stands behind rows; this answer has none.
                await self._session.execute("DO 0")
            return self._session.in_transaction
        except Exception:  # the connection is lost
            return False

    async def _checked(self, work: Work) -> None:
        try:
            await self._branches.check(work.binding, work.keys())
        except BaseException:
            await self._roll_back_quietly()
            raise

    async def _roll_back_quietly(self) -> None:
        # What is raised already says more than that the connection is broken as well.
        with contextlib.suppress(Exception):
            await self._session.rollback()

    async def rollback(self, rollback: Callable[[], Awaitable[None]]) -> None:
        """Roll back: nothing was registered, so nobody need know."""
        self._work = None
        await rollback()

    def forget(self) -> None:
        """The connection is closed."""
        self._work = None


def _running(call: StatementCall) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await call.run()

    return run
