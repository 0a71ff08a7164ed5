"""The table `tidelock_fence`: one row a branch, in the database of the resource.

The row is written in the local transaction of the step that it is about, so it says exactly what
became of the branch. Rows go by the coordinator's `clean` for finished transactions, never by age.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from tidelock.fence.context import decoded
from tidelock.fence.errors import FenceError
from tidelock.sql.dialects import DIALECTS, Dialect, DialectName
from tidelock.sql.own_tables import FENCE
from tidelock.sql.session import MARK, Session
from tidelock.sql.sweeping import Guard

DEFAULT_TABLE: Final = "tidelock_fence"

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")

_DDL: Final[dict[DialectName, str]] = {
    # Compared by bytes: xids that differ in case only are two.
    "mysql": """\
CREATE TABLE IF NOT EXISTS {table} (
  xid VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  branch_id BIGINT NOT NULL,
  action_name VARCHAR(256) NOT NULL,
  cluster_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  status SMALLINT NOT NULL,
  data TEXT NOT NULL,
  created DATETIME NOT NULL,
  modified DATETIME NOT NULL,
  PRIMARY KEY (xid, branch_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin
""",
    "postgresql": """\
CREATE TABLE IF NOT EXISTS {table} (
  xid varchar(100) NOT NULL,
  branch_id bigint NOT NULL,
  action_name varchar(256) NOT NULL,
  cluster_id varchar(64) NOT NULL,
  status smallint NOT NULL,
  data text NOT NULL,
  created timestamptz NOT NULL,
  modified timestamptz NOT NULL,
  PRIMARY KEY (xid, branch_id)
)
""",
    "sqlite": """\
CREATE TABLE IF NOT EXISTS {table} (
  xid TEXT NOT NULL,
  branch_id INTEGER NOT NULL,
  action_name TEXT NOT NULL,
  cluster_id TEXT NOT NULL,
  status INTEGER NOT NULL,
  data TEXT NOT NULL,
  created TEXT NOT NULL,
  modified TEXT NOT NULL,
  PRIMARY KEY (xid, branch_id)
) WITHOUT ROWID
""",
}
_NOW: Final[dict[DialectName, str]] = {
    "mysql": "UTC_TIMESTAMP()",
    "postgresql": "now()",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', 'now')",
}


def fence_ddl(dialect: DialectName, table: str = DEFAULT_TABLE) -> str:
    """Return the statement that makes the table, unless it is there.

    `table` may have its schema before it: `shop.tidelock_fence`.

    Raises:
        ValueError: there is no such dialect, or it is no name of a table.
    """
    if dialect not in _DDL:
        raise ValueError(f"{dialect!r} is none of {', '.join(_DDL)}")
    return _DDL[dialect].format(table=_qualified(DIALECTS[dialect], table))


def _qualified(dialect: Dialect, table: str) -> str:
    parts = table.split(".")
    if len(parts) > 2 or not all(_NAME.fullmatch(part) for part in parts):
        raise ValueError(f"{table!r} is no name of a table: letters, digits, _ and at most one dot")
    return ".".join(dialect.quote(part) for part in parts)


class FenceStatus(enum.IntEnum):
    """What became of a branch."""

    TRIED = 1
    CONFIRMED = 2
    CANCELLED = 3
    SUSPENDED = 4
    """Cancelled before it was tried: a step that comes late finds this row."""


class FenceRow(msgspec.Struct, frozen=True):
    """A row as it was found."""

    status: FenceStatus
    data: dict[str, Any]


class FenceTable:
    """The table, in one dialect."""

    def __init__(self, dialect: Dialect, table: str = DEFAULT_TABLE) -> None:
        """Raises: ValueError: it is no name of a table."""
        self._dialect = dialect
        self._name = _qualified(dialect, table)
        self._now = _NOW[dialect.name]
        # Drivers of PostgreSQL differ in the types that they give to values: all are sent as texts.
        self._as_texts = dialect.name == "postgresql"
        self._text = f"{MARK}::text" if self._as_texts else MARK
        self._whole = f"{MARK}::text::bigint" if self._as_texts else MARK
        self._key = f"{self._text}, {self._whole}"
        self._where = f"xid = {self._text} AND branch_id = {self._whole}"

    def _place(self, xid: str, branch_id: int) -> tuple[str, int | str]:
        return xid, str(branch_id) if self._as_texts else branch_id

    async def insert(
        self,
        session: Session,
        branch: tuple[str, int],
        action_name: str,
        status: FenceStatus,
        data: str,
        *,
        cluster_id: str,
    ) -> None:
        """Insert a row. Raises: what the driver raises; a duplicate when there is one."""
        await FENCE.execute(
            session,
            self._name,
            f"INSERT INTO {self._name} (xid, branch_id, action_name, cluster_id, status, data,"
            f" created, modified) VALUES ({self._key}, {self._text}, {self._text}, {status.value},"
            f" {self._text}, {self._now}, {self._now})",
            (*self._place(*branch), action_name, cluster_id, data),
        )

    async def read(
        self, session: Session, branch: tuple[str, int], *, locks: bool
    ) -> FenceRow | None:
        """Return a row, locked until the end of the local transaction on request.

        Raises:
            FenceError: it cannot be read.
        """
        locking = self._dialect.locking if locks else ""
        found = await FENCE.execute(
            session,
            self._name,
            f"SELECT status, data FROM {self._name} WHERE {self._where}{locking}",
            self._place(*branch),
        )
        for status, data in found.rows:
            try:
                return FenceRow(FenceStatus(int(status)), decoded(msgspec.json.decode(data)))
            except (msgspec.DecodeError, ValueError) as error:
                raise FenceError(f"the fence row of {branch} cannot be read: {error}") from None
        return None

    async def put_data(self, session: Session, branch: tuple[str, int], data: str) -> None:
        """Replace the data of a row."""
        await FENCE.execute(
            session,
            self._name,
            f"UPDATE {self._name} SET data = {self._text} WHERE {self._where}",
            (data, *self._place(*branch)),
        )

    async def put_status(
        self, session: Session, branch: tuple[str, int], status: FenceStatus
    ) -> None:
        """Replace the status of a row."""
        await FENCE.execute(
            session,
            self._name,
            f"UPDATE {self._name} SET status = {status.value}, modified = {self._now}"
            f" WHERE {self._where}",
            self._place(*branch),
        )

    async def page(
        self, session: Session, action_name: str, after: tuple[str, int], limit: int
    ) -> list[Guard]:
        """Return rows of an action behind a branch, in the order of xids and branches."""
        xid, number = self._place(*after)
        found = await FENCE.execute(
            session,
            self._name,
            f"SELECT xid, branch_id, cluster_id, status FROM {self._name}"
            f" WHERE action_name = {self._text}"
            f" AND (xid > {self._text} OR (xid = {self._text} AND branch_id > {self._whole}))"
            f" ORDER BY xid, branch_id LIMIT {int(limit)}",
            (action_name, xid, xid, number),
        )
        return [
            Guard(
                (xid, int(branch_id)),
                xid,
                int(branch_id),
                cluster_id,
                int(status) == FenceStatus.TRIED,
            )
            for xid, branch_id, cluster_id, status in found.rows
        ]

    async def undoable(
        self, session: Session, branches: Sequence[tuple[str, int]]
    ) -> list[tuple[str, int]]:
        """Return those of branches that were tried, and neither confirmed nor cancelled."""
        found: list[tuple[str, int]] = []
        for part in self._parts(branches):
            rows = await FENCE.execute(
                session,
                self._name,
                f"SELECT xid, branch_id FROM {self._name} WHERE {self._among(part)}"
                f" AND status = {FenceStatus.TRIED.value}",
                self._values(part),
            )
            found += [(xid, int(branch_id)) for xid, branch_id in rows.rows]
        return found

    async def delete(
        self,
        session: Session,
        branches: Sequence[tuple[str, int]],
        *,
        only_finished: bool = False,
    ) -> None:
        """Forget branches; or only those of which nothing can be undone."""
        status = f" AND status <> {FenceStatus.TRIED.value}" if only_finished else ""
        for part in self._parts(branches):
            await FENCE.execute(
                session,
                self._name,
                f"DELETE FROM {self._name} WHERE {self._among(part)}{status}",
                self._values(part),
            )

    def _parts(self, branches: Sequence[tuple[str, int]]) -> Iterator[Sequence[tuple[str, int]]]:
        size = self._dialect.greatest_values // 2
        for start in range(0, len(branches), size):
            yield branches[start : start + size]

    def _among(self, branches: Sequence[tuple[str, int]]) -> str:
        return "(" + " OR ".join([f"({self._where})"] * len(branches)) + ")"

    def _values(self, branches: Sequence[tuple[str, int]]) -> list[Any]:
        return [value for branch in branches for value in self._place(*branch)]
