"""The outbox: messages in a table beside the business's own, written in its local transaction.

PENDING ──published──► SENT ──acknowledged──► DONE
   │  ▲                  │
   │  └──────────────────┘  no acknowledgement in time
   └──refused, or too often──► FAILED
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec

from tidelock.barrier.outcomes import BarrierError
from tidelock.crash_points import reached
from tidelock.driving import drive
from tidelock.messages.message import Message
from tidelock.messages.tables import created, qualified
from tidelock.sql.drivers import session_of
from tidelock.sql.own_tables import OUTBOX as OUTBOX_TABLE
from tidelock.sql.session import MARK, Session

OUTBOX: Final = "outbox"

Status = Literal["PENDING", "SENT", "DONE", "FAILED"]

GREATEST_BATCH: Final = 500
_GREATEST_ERROR: Final = 500

_COLUMNS: Final = """\
    id <word 64> PRIMARY KEY,
    topic <word 200>,
    payload <text>,
    status <word 8>,
    attempts INTEGER NOT NULL,
    next_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    error <text>"""


def outbox_ddl(dialect: str, table: str = OUTBOX) -> list[str]:
    """Return the statements that create the table. Times are milliseconds since the epoch.

    Raises:
        ValueError: `dialect` is not mysql, postgresql or sqlite, or `table` is no name.
    """
    name = table.rpartition(".")[2]
    create = created(dialect, table, _COLUMNS)
    index = f"{name}_due"
    if dialect == "mysql":
        inner = f",\n    KEY {index} (status, next_at)\n) ENGINE"
        return [create.replace("\n) ENGINE", inner)]
    quoted = create.partition("EXISTS ")[2].partition(" (")[0]
    return [create, f"CREATE INDEX IF NOT EXISTS {index} ON {quoted} (status, next_at)"]


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is to be published now."""

    id: str
    topic: str
    payload: str
    attempts: int
    """How often it was tried, this time included."""


class Outbox:
    """The table, for who writes messages and for the relay."""

    def __init__(self, table: str = OUTBOX) -> None:
        """`table` may have its schema before it."""
        self.table: Final = table

    def add(
        self,
        connection: Any,
        topic: str,
        payload: Any,
        *,
        id: str | None = None,
        delay_ms: int = 0,
    ) -> str:
        """Write a message in the local transaction of a connection, and return its id.

        It is published after the commit, if there is one. `payload` becomes JSON. An id of your own
        makes a message that is written twice one.

        Raises:
            ValueError: topic, payload or id are none (`Message`).
            BarrierError: the connection commits each statement by itself.
        """
        return drive(self.put(session_of(connection), topic, payload, id=id, delay_ms=delay_ms))

    async def add_async(
        self,
        connection: Any,
        topic: str,
        payload: Any,
        *,
        id: str | None = None,
        delay_ms: int = 0,
    ) -> str:
        """The same for asynchronous connections. Raises: as `add`."""
        session = session_of(connection)
        return await self.put(session, topic, payload, id=id, delay_ms=delay_ms)

    async def put(
        self, session: Session, topic: str, payload: Any, *, id: str | None, delay_ms: int
    ) -> str:
        """Write a message in the local transaction of a session. Raises: as `add`."""
        text = msgspec.json.encode(payload).decode()
        message = Message(id=id or uuid.uuid4().hex, topic=topic, payload=text)
        if session.autocommits:
            raise BarrierError(
                "the connection commits each statement by itself: write the message in the local "
                "transaction of the work that it tells of"
            )
        now = _now_ms()
        values = (message.id, topic, text, "PENDING", 0, now + delay_ms, now, "")
        reached("outbox.before-row")
        await OUTBOX_TABLE.execute(session, self.table, self._insertion(session), values)
        reached("outbox.after-row")
        return message.id

    async def claim(self, session: Session, *, limit: int, lease_ms: int) -> list[Due]:
        """Take messages that are due, so that no other relay takes them before `lease_ms`.

        To be committed before they are published.
        """
        table, now = self._name(session), _now_ms()
        found = await OUTBOX_TABLE.execute(
            session,
            self.table,
            f"SELECT id, topic, payload, attempts, next_at FROM {table} WHERE status IN "
            f"({MARK}, {MARK}) AND next_at <= {MARK} ORDER BY next_at LIMIT {int(limit)}",
            ("PENDING", "SENT", now),
        )
        claimed = []
        for id, topic, payload, attempts, next_at in found.rows:
            taken = await OUTBOX_TABLE.execute(
                session,
                self.table,
                f"UPDATE {table} SET attempts = attempts + 1, next_at = {MARK} WHERE id = {MARK} "
                f"AND next_at = {MARK} AND status IN ({MARK}, {MARK})",
                (now + lease_ms, id, next_at, "PENDING", "SENT"),
            )
            if taken.row_count == 1:
                due = Due(id=id, topic=topic, payload=payload, attempts=attempts + 1)
                claimed.append(due)
        return claimed

    async def settle(
        self, session: Session, id: str, status: Status, *, again_in_ms: int = 0, error: str = ""
    ) -> None:
        """Say what publishing a message came to. What is DONE stays done."""
        await OUTBOX_TABLE.execute(
            session,
            self.table,
            f"UPDATE {self._name(session)} SET status = {MARK}, next_at = {MARK}, error = {MARK} "
            f"WHERE id = {MARK} AND status <> {MARK}",
            (status, _now_ms() + again_in_ms, error[:_GREATEST_ERROR], id, "DONE"),
        )

    async def acknowledge(self, session: Session, id: str) -> bool:
        """Say that a receiver has done what a message asks; whether the message was known."""
        found = await OUTBOX_TABLE.execute(
            session,
            self.table,
            f"UPDATE {self._name(session)} SET status = {MARK}, error = {MARK} WHERE id = {MARK}",
            ("DONE", "", id),
        )
        return found.row_count == 1

    async def retry(self, session: Session, ids: Sequence[str]) -> None:
        """Have FAILED messages published again, from the first attempt on: for operators."""
        for id in ids:
            await OUTBOX_TABLE.execute(
                session,
                self.table,
                f"UPDATE {self._name(session)} SET status = {MARK}, attempts = {MARK}, "
                f"next_at = {MARK} WHERE id = {MARK} AND status = {MARK}",
                ("PENDING", 0, _now_ms(), id, "FAILED"),
            )

    async def purge(self, session: Session, *, older_than_ms: int) -> int:
        """Delete DONE messages that were written that long ago. Returns how many."""
        found = await OUTBOX_TABLE.execute(
            session,
            self.table,
            f"DELETE FROM {self._name(session)} WHERE status = {MARK} AND created_at < {MARK}",
            ("DONE", _now_ms() - older_than_ms),
        )
        return found.row_count

    def _name(self, session: Session) -> str:
        return qualified(session.dialect, self.table)

    def _insertion(self, session: Session) -> str:
        marks = ", ".join([MARK] * 8)
        columns = "id, topic, payload, status, attempts, next_at, created_at, error"
        ignore = session.dialect.name == "mysql"
        return (
            f"INSERT {'IGNORE ' if ignore else ''}INTO {self._name(session)} ({columns}) "
            f"VALUES ({marks}){'' if ignore else ' ON CONFLICT DO NOTHING'}"
        )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
