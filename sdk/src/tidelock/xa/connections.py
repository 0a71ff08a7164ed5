"""The connection of a branch as the application gets it: what would end the branch does not.

Frameworks commit what they are given, so `commit` is let through as nothing: the branch is
committed with its transaction. `rollback` cannot be undone and cannot wait: the branch, and so the
transaction, will be rolled back.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidelock.xa.branch import XaBranch

try:
    import wrapt
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'XA needs what the drivers need: pip install "tidelock[sql]"', name=error.name
    ) from None


class XaConnection(wrapt.ObjectProxy[Any]):
    """A driver's connection within a branch."""

    def __init__(self, wrapped: Any, branch: XaBranch) -> None:
        super().__init__(wrapped)
        self._self_branch = branch
        self._self_awaited = inspect.iscoroutinefunction(getattr(wrapped, "commit", None))

    def commit(self) -> Any:
        """Nothing: it is committed with its transaction."""
        return _nothing() if self._self_awaited else None

    def rollback(self) -> Any:
        """Have the branch rolled back, and its transaction."""
        self._self_branch.refuse("the application rolled back on the branch's connection")
        return _nothing() if self._self_awaited else None

    def __enter__(self) -> Any:
        """Nothing: what the driver's own block does at its end would end the branch."""
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            self.rollback()

    async def __aenter__(self) -> Any:
        """As `__enter__`."""
        return self

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            await self.rollback()

    def close(self, *_: Any, **__: Any) -> Any:
        """Nothing: it is closed when the branch is prepared."""
        return _nothing() if self._self_awaited else None


async def _nothing() -> None:
    return None


async def autocommitting(connection: Any) -> None:
    """Have a driver's connection commit each statement by itself."""
    set_it = getattr(connection, "autocommit", None)
    if callable(set_it):
        done = set_it(True)
        if inspect.isawaitable(done):
            await done
    elif set_it is not None:
        connection.autocommit = True


async def closed(connection: Any) -> None:
    """Close a driver's connection, whatever state it is in."""
    close = getattr(connection, "ensure_closed", None) or connection.close
    done = close()
    if inspect.isawaitable(done):
        await done
