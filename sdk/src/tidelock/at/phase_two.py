"""Phase two: a branch that is rolled back is undone row by row, unless somebody else came between.

It all happens in one local transaction: the undo row is locked and read, rows are compared and
restored, the undo row becomes a tombstone. So it is done once, however often it is asked for.
"""

from __future__ import annotations

import contextlib
import enum
from typing import Final

from tidelock.at.undo_log import Status, UndoLog
from tidelock.at.undo_records import Change, ChangedRow, UndoRecordError
from tidelock.crash_points import reached
from tidelock.errors import TidelockError
from tidelock.rm.resource import BranchCall, BranchStatus, PhaseTwoResult, PhaseTwoStatus
from tidelock.sql.catalog import Catalog, TableName
from tidelock.sql.postgresql_columns import PINNED
from tidelock.sql.session import MARK, Session, release, rollback_to, savepoint
from tidelock.sql.tables import Column, Table
from tidelock.sql.values import Value, same

GREATEST_DETAIL: Final = 1_000
GREATEST_SHOWN: Final = 60

_BEFORE_ROW: Final = "tidelock_before_row"

Values = tuple[Value, ...] | None


class DirtyPolicy(enum.Enum):
    """What becomes of a row that is neither as the branch left it nor as it was before."""

    FAIL = "fail"
    """Nothing of the branch is undone. The transaction is ROLLBACK_FAILED until an operator has
    looked at the difference, which is its reason, and mended the row.
    """
    SKIP = "skip"
    """The row stays as it is; the others are undone."""
    OVERWRITE = "overwrite"
    """The row becomes what it was before the branch."""


class DirtyRowError(TidelockError):
    """A row was changed by somebody who asked for no global lock."""


class _PlaceholderMeetsBranch(Exception):  # noqa: N818 (it is no failure)
    """Between the look and the placeholder the branch's own row was committed."""


class Rollback:
    """Undoes branches in one database."""

    def __init__(self, undo_log: UndoLog, catalog: Catalog, policy: DirtyPolicy) -> None:
        self._undo_log = undo_log
        self._catalog = catalog
        self._policy = policy

    async def roll_back(self, session: Session, call: BranchCall) -> PhaseTwoResult:
        """Undo a branch. The session has no transaction under way before, and none after.

        Raises: what the driver raises; nothing was done then.
        """
        await prepare(session)
        await session.begin()
        try:
            result = await self._undo(session, call)
        except (DirtyRowError, UndoRecordError) as error:
            await session.rollback()
            return _failed(str(error))
        except _PlaceholderMeetsBranch as error:
            # The branch came after all: it will be found next time.
            await session.rollback()
            return PhaseTwoResult(
                status=PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE, detail=_shortened(str(error))
            )
        except BaseException as error:
            await session.rollback()
            if isinstance(error, Exception) and session.dialect.is_constraint(error):
                # A key or a unique value was taken, or what it refers to is gone.
                return _failed(f"the database refuses what was there before: {error}")
            raise
        reached("at.before-rollback-commit")
        await session.commit()
        reached("at.after-rollback-commit")
        return result

    async def _undo(self, session: Session, call: BranchCall) -> PhaseTwoResult:
        xid, branch_id = call.xid, call.branch_id
        row = await self._undo_log.read(session, xid, branch_id, locks=True)
        if row is None:
            if call.phase_one_done:
                raise UndoRecordError(
                    f"the branch said that it was done, and there is no row for it in "
                    f"{self._undo_log.name}; what it changed cannot be undone"
                )
            reached("at.before-placeholder")
            try:
                await self._undo_log.insert_placeholder(
                    session, xid, branch_id, cluster_id=call.cluster_id
                )
            except Exception as error:
                if session.dialect.is_duplicate(error):
                    raise _PlaceholderMeetsBranch("the branch was done just now") from error
                raise
            reached("at.after-placeholder")
            return PhaseTwoResult(
                status=PhaseTwoStatus.ROLLED_BACK, detail="there was nothing to undo"
            )
        if row.status is Status.FINISHED:
            return PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK, detail="undone before")
        left: list[str] = []
        if session.dialect.name == "postgresql":
            # Those that can be are looked at when all rows are there.
            await session.execute("SET CONSTRAINTS ALL DEFERRED")
        for change in reversed(row.changes):
            reached("at.before-restore")
            left += await _Restoring(
                session, await self._table(session, change), change, self._policy
            ).restore()
            reached("at.after-restore")
        if session.dialect.name == "postgresql":
            await session.execute("SET CONSTRAINTS ALL IMMEDIATE")
        reached("at.before-tombstone")
        await self._undo_log.bury(session, xid, branch_id, cluster_id=call.cluster_id)
        reached("at.after-tombstone")
        return PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK, detail=_shortened("; ".join(left)))

    async def _table(self, session: Session, change: Change) -> Table:
        name = TableName(change.table, change.schema, is_quoted=True, schema_is_quoted=True)
        for _ in range(2):
            table = await self._catalog.table(session, name, (change.schema or "main",))
            if all(table.column(column) is not None for column in change.columns):
                return table
            self._catalog.forget(table)
        raise UndoRecordError(
            f"{table.full_name} has lost columns since: {', '.join(change.columns)} were kept"
        )

    async def status(self, session: Session, call: BranchCall) -> BranchStatus:
        """Tell what became of a branch, from its undo row."""
        row = await self._undo_log.read(session, call.xid, call.branch_id, locks=False)
        if row is None:
            return BranchStatus.UNKNOWN
        return BranchStatus.PREPARED if row.status is Status.TO_UNDO else BranchStatus.ROLLED_BACK


async def prepare(session: Session) -> None:
    """Give a connection the settings under which everything can be written back."""
    match session.dialect.name:
        case "mysql":
            await session.execute(
                "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', time_zone = '+00:00',"
                " foreign_key_checks = 1, unique_checks = 1"
            )
            await session.commit()
        case "postgresql":
            calls = ", ".join(f"set_config({MARK}::text, {MARK}::text, false)" for _ in PINNED)
            await session.execute(
                f"SELECT {calls}", [part for setting in PINNED.items() for part in setting]
            )
            if session.in_transaction:
                await session.commit()
        case "sqlite":
            await session.execute("PRAGMA foreign_keys = ON")


class _Restoring:
    """One change, undone."""

    def __init__(self, session: Session, table: Table, change: Change, policy: DirtyPolicy) -> None:
        self._session = session
        self._table = table
        self._change = change
        self._policy = policy
        quote = session.dialect.quote
        self._name = session.dialect.qualified(table.schema, table.name)
        self._columns = [self._column(name) for name in change.columns]
        self._where = " AND ".join(
            f"{quote(column.name)} = {column.form.write}" for column in table.key_columns
        )
        read = [column.form.read(f"{self._name}.{quote(column.name)}") for column in self._columns]
        self._select = (
            f"SELECT {', '.join(read)} FROM {self._name} WHERE {self._where}"
            f"{session.dialect.locking}"
        )

    def _column(self, name: str) -> Column:
        column = self._table.column(name, folds=False)
        assert column is not None, f"{self._table.full_name} has no {name}"
        return column

    async def restore(self) -> list[str]:
        """Restore rows. Returns what was left as it was, or overwritten, for people.

        A statement changes its rows in an order that no image tells. So a row whose unique values
        another one still has, or that refers to one that is still to come, is put off.

        Raises:
            DirtyRowError
        """
        told: list[str] = []
        left = list(reversed(self._change.rows))
        while left:
            put_off = []
            for row in left:
                refusal = await self._restored(row, told)
                if refusal is not None:
                    put_off.append(row)
                    last = refusal
            if len(put_off) == len(left):
                raise last
            left = put_off
        return told

    async def _restored(self, row: ChangedRow, told: list[str]) -> Exception | None:
        """Restore a row. Returns the constraint's refusal when another row must come first."""
        if not self._can_wait:
            told += await self._one(row)
            return None
        session = self._session
        await savepoint(session, _BEFORE_ROW)
        try:
            told += await self._one(row)
        except Exception as error:
            if not session.dialect.is_constraint(error):
                raise
            await rollback_to(session, _BEFORE_ROW)
            return error
        finally:
            with contextlib.suppress(Exception):
                await release(session, _BEFORE_ROW)
        return None

    @property
    def _can_wait(self) -> bool:
        """Whether the order of the rows may matter: two share a unique index, or a reference."""
        table = self._table
        return len(self._change.rows) > 1 and bool(len(table.indexes) > 1 or table.references)

    async def _one(self, row: ChangedRow) -> list[str]:
        told: list[str] = []
        if row.before is not None and row.after is not None and _equal(row.before, row.after):
            return told
        now = await self._now(row)
        if _equal(now, row.before):
            return told
        if not _equal(now, row.after):
            text = self._difference(row, now)
            if self._policy is DirtyPolicy.FAIL:
                raise DirtyRowError(text)
            told.append(text)
            if self._policy is DirtyPolicy.SKIP:
                return told
        await self._write(row, now)
        if self._table.triggers and not _equal(await self._now(row), row.before):
            raise DirtyRowError(
                f"a trigger of {self._table.full_name} changes what is restored: "
                f"{', '.join(map(_shown, row.key))}"
            )
        return told

    async def _now(self, row: ChangedRow) -> Values:
        found = await self._session.execute(self._select, self._key(row))
        if not found.rows:
            return None
        return tuple(
            column.form.decode(raw)
            for column, raw in zip(self._columns, found.rows[0], strict=True)
        )

    def _key(self, row: ChangedRow) -> list[object]:
        return [
            column.form.encode(value)
            for column, value in zip(self._table.key_columns, row.key, strict=True)
        ]

    async def _write(self, row: ChangedRow, now: Values) -> None:
        if row.before is None:
            await self._session.execute(
                f"DELETE FROM {self._name} WHERE {self._where}", self._key(row)
            )
        elif now is None:
            await self._insert(row.before)
        else:
            await self._update(row, row.before)

    async def _insert(self, before: tuple[Value, ...]) -> None:
        quote = self._session.dialect.quote
        pairs = [
            (column, value)
            for column, value in zip(self._columns, before, strict=True)
            if not column.is_computed
        ]
        names = ", ".join(quote(column.name) for column, _ in pairs)
        marks = ", ".join(column.form.write for column, _ in pairs)
        # Numbers that the database counts are given this time.
        overriding = (
            " OVERRIDING SYSTEM VALUE" if self._session.dialect.name == "postgresql" else ""
        )
        await self._session.execute(
            f"INSERT INTO {self._name} ({names}){overriding} VALUES ({marks})",
            [column.form.encode(value) for column, value in pairs],
        )

    async def _update(self, row: ChangedRow, before: tuple[Value, ...]) -> None:
        quote = self._session.dialect.quote
        key = set(self._table.primary_key)
        pairs = [
            (column, value)
            for column, value in zip(self._columns, before, strict=True)
            if column.name not in key and not column.is_computed
        ]
        if not pairs:
            return
        sets = ", ".join(f"{quote(column.name)} = {column.form.write}" for column, _ in pairs)
        await self._session.execute(
            f"UPDATE {self._name} SET {sets} WHERE {self._where}",
            [column.form.encode(value) for column, value in pairs] + self._key(row),
        )

    def _difference(self, row: ChangedRow, now: Values) -> str:
        """Say in which columns a row is neither as it was left nor as it was before."""
        key = ", ".join(map(_shown, row.key))
        where = f"{self._table.full_name} ({key})"
        if now is None:
            return f"{where} is gone; the branch left it there"
        if row.after is None:
            return f"{where} is there again; the branch deleted it"
        parts = []
        for at, column in enumerate(self._columns):
            left = row.after[at]
            if not same(now[at], left):
                was = "" if row.before is None else f", before {_shown(row.before[at])}"
                parts.append(f"{column.name} is {_shown(now[at])}, left as {_shown(left)}{was}")
        return f"{where} was changed by others: {'; '.join(parts)}"


def _equal(one: Values, other: Values) -> bool:
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))


def _shown(value: Value) -> str:
    text = f"{value}" if not isinstance(value, (str, bytes)) else repr(value)
    return text if len(text) <= GREATEST_SHOWN else f"{text[:GREATEST_SHOWN]}…"


def _shortened(text: str) -> str:
    return text if len(text) <= GREATEST_DETAIL else f"{text[: GREATEST_DETAIL - 1]}…"


def _failed(why: str) -> PhaseTwoResult:
    return PhaseTwoResult(status=PhaseTwoStatus.ROLLBACK_FAILED_UNRETRYABLE, detail=_shortened(why))
