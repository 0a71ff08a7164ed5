"""The table `tidelock_saga_result`: what steps have answered, beside the rows of their barrier.

A step that is called again answers what it answered at first, so that later steps are fed the same;
its compensation finds what there is to undo. A row is written in the local transaction of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tidelock.barrier.tables import qualified
from tidelock.sql.dialects import DIALECTS, Dialect
from tidelock.sql.own_tables import SAGA_RESULT
from tidelock.sql.session import MARK, Session

DEFAULT_TABLE: Final = "tidelock_saga_result"

GREATEST_RESULT_BYTES: Final = 64 * 1024
"""What the cluster keeps of an answer."""

_BATCH: Final = 500

_DDL: Final = {
    "mysql": """CREATE TABLE IF NOT EXISTS {table} (
    gid VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    branch_id VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    refused SMALLINT NOT NULL,
    result MEDIUMTEXT NOT NULL,
    PRIMARY KEY (gid, branch_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin""",
    "postgresql": """CREATE TABLE IF NOT EXISTS {table} (
    gid VARCHAR(128) NOT NULL,
    branch_id VARCHAR(128) NOT NULL,
    refused SMALLINT NOT NULL,
    result TEXT NOT NULL,
    PRIMARY KEY (gid, branch_id)
)""",
    "sqlite": """CREATE TABLE IF NOT EXISTS {table} (
    gid TEXT NOT NULL,
    branch_id TEXT NOT NULL,
    refused INTEGER NOT NULL,
    result TEXT NOT NULL,
    PRIMARY KEY (gid, branch_id)
) WITHOUT ROWID""",
}


def saga_result_ddl(dialect: str, table: str = DEFAULT_TABLE) -> str:
    """Return the statement that makes the table, unless it is there.

    `dialect` is mysql (MariaDB as well), postgresql or sqlite; `table` may have its schema before
    it.

    Raises:
        ValueError: one of both is none.
    """
    if dialect not in _DDL:
        raise ValueError(f"{dialect!r} is no dialect known here: {', '.join(_DDL)}")
    return _DDL[dialect].format(table=qualified(DIALECTS[dialect], table))


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a step has answered."""

    refused: bool
    """It has done nothing, and never will."""
    text: str
    """JSON."""


class ResultTable:
    """The table, in one dialect."""

    def __init__(self, dialect: Dialect, table: str = DEFAULT_TABLE) -> None:
        """Raises: ValueError: it is no name of a table."""
        self._name = table
        self._quoted = qualified(dialect, table)

    async def insert(self, session: Session, branch: tuple[str, str], result: StepResult) -> None:
        """Keep a result. Raises: what the driver raises."""
        text = (
            f"INSERT INTO {self._quoted} (gid, branch_id, refused, result)"
            f" VALUES ({MARK}, {MARK}, {int(result.refused)}, {MARK})"
        )
        await SAGA_RESULT.execute(session, self._name, text, (*branch, result.text))

    async def read(self, session: Session, branch: tuple[str, str]) -> StepResult | None:
        """Return what is kept of a branch. Raises: what the driver raises."""
        text = (
            f"SELECT refused, result FROM {self._quoted} WHERE gid = {MARK} AND branch_id = {MARK}"
        )
        found = await SAGA_RESULT.execute(session, self._name, text, branch)
        for refused, result in found.rows:
            return StepResult(refused=bool(refused), text=str(result))
        return None

    async def forget(self, session: Session, gids: Sequence[str]) -> None:
        """Delete what is kept of transactions. Raises: what the driver raises."""
        for start in range(0, len(gids), _BATCH):
            batch = tuple(gids[start : start + _BATCH])
            marks = ", ".join([MARK] * len(batch))
            text = f"DELETE FROM {self._quoted} WHERE gid IN ({marks})"
            await SAGA_RESULT.execute(session, self._name, text, batch)
