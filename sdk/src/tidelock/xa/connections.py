"""The connection of a branch as the application gets it: what would end the branch does not.

Frameworks commit what they are given, so `commit` is let through as nothing: the branch is
committed with its transaction. `rollback` cannot be undone and cannot wait: the branch, and so the
transaction, will be rolled back.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from tidelock.sql.drivers.lent_connections import LentConnection

if TYPE_CHECKING:
    from tidelock.xa.branch import XaBranch


class _Ends:
    """What becomes of the application's wish to end its work."""

    def __init__(self, branch: XaBranch) -> None:
        self._branch = branch

    async def commit(self) -> None:
        """Nothing: it is committed with its transaction."""

    async def rollback(self) -> None:
        """Have the branch rolled back, and its transaction."""
        self._branch.refuse("the application rolled back on the branch's connection")

    async def close(self) -> None:
        """Nothing: it is closed when the branch is prepared."""


def lent(connection: Any, branch: XaBranch) -> LentConnection:
    """Return a driver's connection as one within a branch."""
    return LentConnection(connection, _Ends(branch))


async def autocommitting(connection: Any) -> None:
    """Have a driver's connection commit each statement by itself."""
    set_it = getattr(connection, "autocommit", None)
    if callable(set_it):
        done = set_it(True)
        if inspect.isawaitable(done):
            await done
    elif set_it is not None:
        connection.autocommit = True
