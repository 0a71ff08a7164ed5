"""Local transactions of a framework's connections, which take place on the group's.

From its first statement to its commit or rollback, a local transaction is what a block of
`LcnDataSource.connection` is: a part of the unit around it, or a unit of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tidelock.calls import Calls
from tidelock.driving import drive
from tidelock.lcn.errors import LcnMisuseError
from tidelock.lcn.lending import Lent
from tidelock.lcn.part import Desk
from tidelock.sql.session import Session
from tidelock.transaction.context import current_xid


class OnGroups:
    """For one connection. Implements `tidelock.sql.drivers.switching.Elsewhere`."""

    def __init__(self, desk: Desk, calls: Callable[[], Calls], user: Callable[[], object]) -> None:
        """`calls` never wait as coroutines; `user` returns the thread or task that is running."""
        self._desk = desk
        self._calls = calls
        self._user = user
        self._lent: tuple[str, Lent] | None = None

    @property
    def is_wanted(self) -> bool:
        """In a transaction, and until the end of what was begun in one."""
        return self._lent is not None or current_xid() is not None

    @property
    def is_under_way(self) -> bool:
        """Something was begun in a transaction."""
        return self._lent is not None

    def begin(self, own: Session) -> Any:
        """Begin to work on the group's connection unless that is under way, and return it.

        Raises:
            LcnMisuseError: the framework's own connection is in a local transaction, or the one
                that is under way is another transaction's.
            What `Lent.begin` raises.
        """
        xid = current_xid() or ""
        if self._lent is None:
            if own.in_transaction:
                raise LcnMisuseError(
                    "a local transaction was begun on this connection before the global one: "
                    "commit it first, or take another connection"
                )
            self._lent = xid, drive(Lent.begin(self._desk, self._calls(), self._user()))
        elif self._lent[0] != xid:
            raise LcnMisuseError(
                f"the local transaction of this connection belongs to {self._lent[0]}, which "
                f"{f'{xid} is not' if xid else 'has no block here any more'}: commit it first, or "
                "take another connection"
            )
        return self._lent[1].connection

    def end(self, *, failed: bool) -> None:
        """Undo what was done, or let it count. Raises: what `Lent.end` raises."""
        if self._lent is not None:
            (_, lent), self._lent = self._lent, None
            drive(lent.end(self._calls(), failed=failed))
