"""One statement with the images of its rows before and after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from tidelock.at.checks import check_key_stays, columns_of, refuse
from tidelock.at.errors import ImageMismatchError
from tidelock.at.images import Image, Photographer, Row, differs
from tidelock.at.inserts import Insertion
from tidelock.at.undo_records import Change, Operation, change_of
from tidelock.sql.columns import text_of
from tidelock.sql.interception import Ran, StatementCall
from tidelock.sql.placeholders import Fragment
from tidelock.sql.resolution import Meant
from tidelock.sql.session import Session
from tidelock.sql.statements import Kind, Statement
from tidelock.sql.tables import Column, Table

Traced = tuple[Change | None, Image]

_ISOLATION: Final = """
SELECT variable_value FROM information_schema.session_variables
WHERE variable_name IN ('TX_ISOLATION', 'TRANSACTION_ISOLATION')
"""
"""For MariaDB, which alone returns rows of an INSERT; the names differ by version."""


class MeansAnotherError(Exception):
    """A statement means another table than it did when it was executed last."""

    def __init__(self, meant: Meant) -> None:
        super().__init__(meant.table.full_name)
        self.meant: Final = meant


class Doubt(msgspec.Struct, frozen=True):
    """Whether a statement still means the table that it meant when it was executed last."""

    meant: Meant
    ask: Callable[[], Awaitable[Meant]]

    async def settle(self, image: Image) -> None:
        """See it from the sign that an image of the statement's rows shows, or ask.

        Raises:
            MeansAnotherError
        """
        sign = self.meant.sign
        if sign is not None and sign.is_shown_by(image.sign):
            return
        now = await self.ask()
        if now != self.meant:
            raise MeansAnotherError(now)


class Tracer:
    """Runs one statement, and finds out what it changes."""

    def __init__(
        self,
        session: Session,
        statement: Statement,
        table: Table,
        call: StatementCall,
        doubt: Doubt | None = None,
    ) -> None:
        """`doubt` is there when the table is not proved to be the one that the statement means."""
        self._session = session
        self._statement = statement
        self._table = table
        self._call = call
        self._doubt = doubt
        self.has_run = False
        """The application's statement has had its effect."""

    @property
    def is_traced(self) -> bool:
        """It changes rows, and does not only lock them."""
        return self._statement.kind is not Kind.READ_LOCKING

    async def trace(self) -> Traced:
        """Run it. The change is None when nothing is different afterwards.

        Raises:
            StatementRefusedError: before it ran, or after an INSERT whose rows are not known.
            ImageMismatchError: another session came in between.
            MeansAnotherError: before it ran.
        """
        match self._statement.kind:
            case Kind.UPDATE:
                return await self._update()
            case Kind.DELETE:
                return await self._delete()
            case Kind.INSERT if self._statement.conflict is None:
                return await self._insert()
            case Kind.INSERT:
                return await self._insert_or_update()
            case _:
                raise AssertionError(f"nothing to trace in {self._statement.kind}")

    async def _run(self) -> Ran:
        ran = await self._call.run()
        self.has_run = True
        if self._statement.returning is not None and self._session.dialect.writes_alone:
            # SQLite only counts once everything that is returned was read.
            return msgspec.structs.replace(ran, row_count=-1)
        return ran

    # UPDATE

    async def _update(self) -> Traced:
        statement, table = self._statement, self._table
        changed = columns_of(statement, table, statement.columns)
        check_key_stays(statement, table, changed)
        photographer = Photographer(self._session, table, self._updated_columns(changed))
        before = await self._before(photographer)
        ran = await self._run()
        rows = list(before.rows.values())
        after = await photographer.by_key(rows) if rows else before
        pairs: list[tuple[Row | None, Row | None]] = []
        for parts, row in before.rows.items():
            now = after.rows.get(parts)
            if now is None:
                raise self._mismatch(f"the row {parts} is gone")
            if differs(row, now):
                pairs.append((row, now))
        self._agrees(ran, found=len(before), changed=len(pairs))
        return self._traced(Operation.UPDATE, before, pairs)

    def _updated_columns(self, changed: tuple[Column, ...]) -> tuple[Column, ...]:
        table = self._table
        if any("UPDATE" in trigger.events for trigger in table.triggers):
            # Allowed by name; it may set columns that the statement does not.
            return table.written_columns
        return (*changed, *(column for column in table.columns if column.auto_updates))

    @property
    def _ordering(self) -> tuple[Fragment, bool]:
        """Return `ORDER BY … LIMIT …` for the image, and whether that may be of more rows.

        Where the order does not say exactly which rows come first, the image is of all that could
        be meant, and what did not change is left out afterwards.
        """
        statement = self._statement
        if not statement.order.text:
            return statement.order, False
        if "LIMIT" not in statement.order.text.upper():
            return Fragment(""), False
        by = statement.order_columns
        if by and {name.lower() for name in self._table.primary_key} <= {
            column.name.lower() for column in by
        }:
            return statement.order, False
        return Fragment(""), True

    async def _before(self, photographer: Photographer, *, locks: bool = True) -> Image:
        statement = self._statement
        if "LIMIT" in statement.order.text.upper():
            await self._keeps_others_out()
        order, _ = self._ordering
        parts = [part for part in (statement.where, order) if part.text]
        text = " ".join([f"FROM {statement.target.text}", *(part.text for part in parts)])
        keys = statement.target.keys + tuple(key for part in parts for key in part.keys)
        source = Fragment(text, keys)
        doubt = self._doubt
        image = await photographer.matching(
            source,
            statement.alias,
            self._call.values,
            locks=locks,
            sign=None if doubt is None else doubt.meant.sign,
        )
        if doubt is not None:
            await doubt.settle(image)
        return image

    async def _keeps_others_out(self) -> None:
        """See that no row can slip in before those of the image, and be changed instead of them."""
        if self._session.dialect.name != "mysql":
            return
        found = await self._session.execute(
            "SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')"
        )
        if any(text_of(level) in {"READ-COMMITTED", "READ-UNCOMMITTED"} for _, level in found.rows):
            refuse(
                self._statement,
                "with READ COMMITTED another session's row may come under its LIMIT; SELECT the "
                "keys FOR UPDATE first, then name them",
            )

    def _agrees(self, ran: Ran, *, found: int, changed: int) -> None:
        """Compare the statement's own count with the images'.

        Raises:
            ImageMismatchError
        """
        count = ran.row_count
        if count < 0:
            if not self._session.dialect.writes_alone:
                raise self._mismatch("the driver does not tell how many rows it changed")
            return
        _, is_wider = self._ordering
        if is_wider:
            if not changed <= count <= found:
                raise self._mismatch(f"it changed {count} rows, and {changed} are seen")
            return
        expected = found if self._session.counts_found_rows else changed
        if count != expected:
            raise self._mismatch(f"it changed {count} rows, and {expected} were expected")

    def _mismatch(self, what: str) -> ImageMismatchError:
        return ImageMismatchError(
            f"another session changed rows of {self._table.full_name} while a statement looked at "
            f"them: {what}. Roll back and run the local transaction again"
        )

    # DELETE

    async def _delete(self) -> Traced:
        photographer = Photographer(self._session, self._table, self._table.written_columns)
        before = await self._before(photographer)
        ran = await self._run()
        gone = list(before.rows.values())
        _, is_wider = self._ordering
        if is_wider and gone:
            left = await photographer.by_key(gone)
            gone = [row for row in gone if row.parts not in left.rows]
        if ran.row_count != len(gone) and not (
            ran.row_count < 0 and self._session.dialect.writes_alone
        ):
            raise self._mismatch(f"it deleted {ran.row_count} rows, and {len(gone)} were seen")
        return self._traced(Operation.DELETE, before, [(row, None) for row in gone])

    # INSERT

    async def _insert(self) -> Traced:
        insertion = Insertion(self._session, self._statement, self._table, self._call)
        photographer = Photographer(self._session, self._table, self._table.written_columns)
        ran = await self._run()
        after = await insertion.inserted(photographer, ran)
        rows: list[tuple[Row | None, Row | None]] = [(None, row) for row in after.rows.values()]
        return self._traced(Operation.INSERT, after, rows)

    async def _insert_or_update(self) -> Traced:
        statement, table = self._statement, self._table
        assert statement.conflict is not None
        updated = tuple(
            column
            for name in statement.conflict.updates
            if (column := table.column(name)) is not None
        )
        check_key_stays(statement, table, updated)
        insertion = Insertion(self._session, statement, table, self._call)
        photographer = Photographer(self._session, table, table.written_columns)
        before = await insertion.met(photographer)
        if before is None:
            return await self._insert()
        await self._counts_or_locks_gaps()
        ran = await self._run()
        await self._made_none_of_others(insertion, photographer, before, ran)
        after = await insertion.done(photographer, before, ran)
        pairs: list[tuple[Row | None, Row | None]] = []
        made = 0
        for parts, row in after.rows.items():
            known = before.rows.get(parts)
            if known is None:
                made += 1
                pairs.append((None, row))
            elif differs(known, row):
                pairs.append((known, row))
        self._agrees_with_made(ran, made=made, changed=len(pairs) - made, met=len(before))
        return self._traced(Operation.UPDATE, after, pairs)

    async def _counts_or_locks_gaps(self) -> None:
        """See that a row which another session makes meanwhile would not pass for one of ours.

        With RETURNING, MariaDB counts the rows that it returns, which tells nothing about that; but
        at REPEATABLE READ the look at the rows has locked where they would stand.

        Raises:
            StatementRefusedError
        """
        statement = self._statement
        assert statement.conflict is not None
        if self._session.dialect.name != "mysql" or not self._counts_returned:
            return
        found = await self._session.execute(_ISOLATION)
        level = text_of(found.rows[0][0]).upper() if found.rows else "unknown"
        if level not in {"REPEATABLE-READ", "SERIALIZABLE"}:
            refuse(
                statement,
                "with RETURNING nobody can tell which of its rows were there before at isolation "
                f"level {level}; leave RETURNING out, or connect with REPEATABLE READ",
            )

    @property
    def _counts_returned(self) -> bool:
        conflict = self._statement.conflict
        return conflict is not None and bool(conflict.updates) and bool(self._statement.returning)

    async def _made_none_of_others(
        self, insertion: Insertion, photographer: Photographer, before: Image, ran: Ran
    ) -> None:
        """See that no row which another session has made meanwhile was taken for one of ours.

        PostgreSQL updates it where MySQL's count would give it away; but a row that was updated
        carries the mark of the lock that it was found under.

        Raises:
            ImageMismatchError
        """
        assert self._statement.conflict is not None
        if self._session.dialect.name != "postgresql" or not self._statement.conflict.updates:
            return
        marked = await insertion.marked(photographer)
        if not set(marked) <= set(before.rows):
            raise self._mismatch("a row was inserted by another session")

    def _agrees_with_made(self, ran: Ran, *, made: int, changed: int, met: int) -> None:
        statement = self._statement
        assert statement.conflict is not None
        count = ran.row_count
        if count < 0 or self._session.dialect.writes_alone:
            return
        if not statement.conflict.updates:
            if count != made:
                raise self._mismatch(f"it inserted {count} rows, and {made} are seen")
            return
        if self._session.dialect.name == "mysql":
            if made + met > len(statement.rows):
                refuse(statement, "a row of it meets several rows; UPDATE them by their keys")
            if made + met < len(statement.rows):
                refuse(statement, "several of its rows meet the same row; execute them apart")
            least = made + 2 * changed
            most = least + (met - changed if self._session.counts_found_rows else 0)
            if self._counts_returned:
                least = most = len(statement.rows)
            if not least <= count <= most:
                raise self._mismatch(f"it counted {count}, and {least} to {most} were expected")

    async def foreseen(self) -> Image | None:
        """Look, without locks, which rows it will change or lock; None where nobody can tell.

        Raises:
            StatementRefusedError
        """
        photographer = Photographer(self._session, self._table, ())
        match self._statement.kind:
            case Kind.UPDATE | Kind.DELETE:
                return await self._before(photographer, locks=False)
            case Kind.READ_LOCKING:
                return await self._to_lock()
            case Kind.INSERT if self._statement.conflict is not None:
                insertion = Insertion(self._session, self._statement, self._table, self._call)
                return await insertion.met(photographer, locks=False)
            case _:
                return None

    # SELECT … FOR UPDATE

    async def locked(self) -> Image | None:
        """Run a locking read; return which rows it has locked."""
        await self._run()
        return await self._to_lock()

    async def _to_lock(self) -> Image:
        statement = self._statement
        photographer = Photographer(self._session, self._table, ())
        clause = statement.where
        source = Fragment(
            f"{statement.source.text} {clause.text}", statement.source.keys + clause.keys
        )
        return await photographer.matching(source, statement.alias, self._call.values, locks=False)

    def _traced(
        self, operation: Operation, image: Image, pairs: list[tuple[Row | None, Row | None]]
    ) -> Traced:
        """Return the change with its rows, by the keys under which they are locked."""
        rows = {
            row.parts: row for pair in pairs for row in (pair[0] or pair[1],) if row is not None
        }
        changed = Image(image.table, image.columns, rows)
        return (change_of(operation, image, pairs) if pairs else None), changed
