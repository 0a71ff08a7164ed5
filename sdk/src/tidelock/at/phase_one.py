"""Phase one: what happens around the statements and the commit of one connection.

For each local transaction: images before and after each statement, the application's own text in
between; then, all in the same local transaction, the branch is registered with the rows that it
changed, its undo row is written, and the local transaction committed; then it is reported. A
registration never waits while the database's own locks are held.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from tidelock.at.branches import Branches
from tidelock.at.checks import check_table, refuse
from tidelock.at.errors import ImageMismatchError, MixedTransactionsError, TooManyRowsError
from tidelock.at.images import GREATEST_ROWS, Image
from tidelock.at.tracing import Tracer
from tidelock.at.undo_log import UndoLog
from tidelock.at.undo_records import Change
from tidelock.crash_points import reached
from tidelock.errors import ProblemError, TransactionNotActiveError, TransactionNotFoundError
from tidelock.sql.catalog import Catalog, search_path
from tidelock.sql.columns import KeyPart
from tidelock.sql.errors import AutocommitError, DatabaseUnsuitableError
from tidelock.sql.interception import StatementCall
from tidelock.sql.reading import understand
from tidelock.sql.session import Session
from tidelock.sql.statements import Kind, Statement
from tidelock.sql.tables import Table
from tidelock.transaction.context import Binding, current

Keys = dict[str, list[list[KeyPart]]]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What is common to all connections of a resource."""

    catalog: Catalog
    undo_log: UndoLog
    allow: frozenset[str] = frozenset()
    """Tables whose triggers and cascading foreign keys their owner has judged."""


class _Work:
    """What one local transaction has done so far."""

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self.changes: list[Change] = []
        self.rows: list[tuple[str, tuple[KeyPart, ...]]] = []
        self.savepoints: list[tuple[str, int, int]] = []
        self.path: tuple[str, ...] | None = None
        self.spoiled: tuple[BaseException, int] | None = None
        """What went wrong after a statement had run, and how many savepoints there were then."""
        self.described: set[str] = set()
        """Tables whose columns were compared with what is known of them."""

    def keys(self) -> Keys:
        """Return the rows as row locks name them, each once."""
        found: dict[str, dict[tuple[KeyPart, ...], None]] = {}
        for table, key in self.rows:
            found.setdefault(table, {})[key] = None
        return {table: [list(key) for key in rows] for table, rows in found.items()}


class PhaseOne:
    """AT around one connection. Implements `tidelock.sql.interception.LocalWork`."""

    def __init__(
        self,
        session: Session,
        rules: Rules,
        branches: Branches,
        take_back: Callable[[str, int], Awaitable[None]],
    ) -> None:
        """`take_back` undoes a branch that nobody asks for any more, on another connection."""
        self._take_back = take_back
        self._session = session
        self._rules = rules
        self._branches = branches
        self._work: _Work | None = None

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
                    self._work.path = None
                await call.run()
            case Kind.COMMIT:
                await self.commit(_running(call))
            case Kind.ROLLBACK:
                await self.rollback(_running(call))
            case Kind.SAVEPOINT | Kind.ROLLBACK_TO | Kind.RELEASE:
                await call.run()
                self._savepoint(statement)
            case _:
                await self._traced(binding, statement, call)

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
    def _whose(work: _Work) -> str:
        return work.binding.xid or "a global lock"

    async def _traced(self, binding: Binding, statement: Statement, call: StatementCall) -> None:
        if self._session.autocommits:
            raise AutocommitError(
                "the connection commits each statement by itself; begin a local transaction, or "
                "turn autocommit off"
            )
        is_first = not self._session.in_transaction
        if binding.xid is not None:
            await self._rules.undo_log.check(self._session)
        work = self._begun(binding)
        table = await self._table(work, statement)
        if self._session.dialect.writes_alone:
            # From here to the commit nobody else writes, so images and statements agree.
            await self._session.begin()
        tracer = Tracer(self._session, statement, table, call)
        if statement.kind is Kind.READ_LOCKING:
            await self._locking(work, tracer, is_first=is_first)
            return
        try:
            change, image = await tracer.trace()
        except BaseException as error:
            if tracer.has_run:
                # Its effect is there and not known, so none of it may be committed.
                work.spoiled = (error, len(work.savepoints))
            raise
        if change is None:
            return
        work.changes.append(change)
        self._note(work, image)

    def _begun(self, binding: Binding) -> _Work:
        work = self._work
        if work is None:
            work = self._work = _Work(binding)
        elif work.binding.xid != binding.xid:
            raise MixedTransactionsError(
                f"this connection's local transaction belongs to {self._whose(work)}, and cannot "
                f"belong to {binding.xid or 'a global lock'} as well; commit it first"
            )
        return work

    async def _table(self, work: _Work, statement: Statement) -> Table:
        name = statement.table
        assert name is not None
        catalog = self._rules.catalog
        if work.path is None:
            work.path = await search_path(self._session)
        if self._session.dialect.name == "mysql" and name.schema and work.path != (name.schema,):
            raise DatabaseUnsuitableError(
                f"{name} is in another database than the connection's, {work.path[0]}; connect to "
                "it, so that everybody names its rows alike"
            )
        table = await catalog.table(self._session, name, work.path)
        if any(table.column(each.name) is None for each in statement.columns):
            # It has changed since it was looked at.
            catalog.forget(table)
            table = await catalog.table(self._session, name, work.path)
        if statement.kind is Kind.DELETE and table.full_name not in work.described:
            table = await self._compared(work, table, statement)
        check_table(statement, table, self._rules.allow)
        return table

    async def _compared(self, work: _Work, table: Table, statement: Statement) -> Table:
        """Return a table as it is now: of a row that goes, every column must be kept."""
        name = self._session.dialect.qualified(table.schema, table.name)
        names = await self._session.describe(f"SELECT * FROM {name} WHERE 1 = 0")
        if not set(names) <= {column.name for column in table.columns}:
            self._rules.catalog.forget(table)
            assert statement.table is not None
            assert work.path is not None
            table = await self._rules.catalog.table(self._session, statement.table, work.path)
        work.described.add(table.full_name)
        return table

    def _note(self, work: _Work, image: Image) -> None:
        name = image.table.full_name
        work.rows += [(name, parts) for parts in image.rows]
        if len(work.rows) > GREATEST_ROWS and sum(map(len, work.keys().values())) > GREATEST_ROWS:
            raise TooManyRowsError(
                f"this local transaction changes more than {GREATEST_ROWS} rows; commit in between"
            )

    async def _locking(self, work: _Work, tracer: Tracer, *, is_first: bool) -> None:
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

    def _savepoint(self, statement: Statement) -> None:
        work = self._work
        if work is None:
            binding = current()
            if statement.kind is not Kind.SAVEPOINT or binding is None:
                return
            work = self._work = _Work(binding)
        names = [name for name, _, _ in work.savepoints]
        if statement.kind is Kind.SAVEPOINT:
            work.savepoints.append((statement.savepoint, len(work.changes), len(work.rows)))
            return
        if statement.savepoint not in names:
            return
        at = len(names) - 1 - names[::-1].index(statement.savepoint)
        if statement.kind is Kind.RELEASE:
            del work.savepoints[at:]
            return
        _, changes, rows = work.savepoints[at]
        del work.savepoints[at + 1 :]
        # What was done since is undone already. Rows are not locked before the registration.
        del work.changes[changes:]
        del work.rows[rows:]
        if work.spoiled is not None and at < work.spoiled[1]:
            work.spoiled = None

    # The ends

    async def commit(self, commit: Callable[[], Awaitable[None]]) -> None:
        """Register, write the undo row, commit, report.

        Raises:
            RowsLockedError: the local transaction was rolled back; wait for the rows, run it again.
            DeadlockError, TransactionNotActiveError, …: it was rolled back as well.
        """
        work, self._work = self._work, None
        if work is not None and work.spoiled is not None:
            await self._roll_back_quietly()
            raise ImageMismatchError(
                f"the local transaction was rolled back: {work.spoiled[0]}"
            ) from work.spoiled[0]
        if work is None or not work.changes:
            await commit()
            return
        if work.binding.xid is None:
            await self._checked(work)
            await commit()
            return
        xid = work.binding.xid
        try:
            reached("at.before-register")
            branch_id = await self._branches.register(xid, work.keys())
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
        reached("at.before-report")
        try:
            await self._branches.done(xid, branch_id)
        except (TransactionNotActiveError, TransactionNotFoundError) as refused:
            if _was_rolled_back(refused):
                # Its guards may be gone: then it met none, and nobody asks for it any more.
                await self._take_back(xid, branch_id)
            raise
        reached("at.after-report")

    async def _checked(self, work: _Work) -> None:
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


def _was_rolled_back(refused: ProblemError) -> bool:
    """Say whether the transaction is over, and not only about to be rolled back."""
    standing = refused.transaction
    return standing is not None and standing.status in ("ROLLED_BACK", "TIMEOUT_ROLLED_BACK")


def _running(call: StatementCall) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        await call.run()

    return run
