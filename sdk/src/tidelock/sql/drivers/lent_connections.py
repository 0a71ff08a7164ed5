"""Connections of a branch as an application gets them: what would end the branch does not.

Frameworks commit, roll back and close what they are given. What that comes to, the mode says; the
driver's connection stays open, and in its local transaction.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine
from typing import Any, Protocol

from tidelock.driving import drive

try:
    import wrapt
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'connections that take part in transactions need more: pip install "tidelock[sql]"',
        name=error.name,
    ) from None


class Lender(Protocol):
    """What a mode makes of an application's wish to end its work."""

    async def commit(self) -> None:
        """The application commits."""
        ...

    async def rollback(self) -> None:
        """The application rolls back."""
        ...

    async def close(self) -> None:
        """The application has no more use of it."""
        ...


class LentConnection(wrapt.ObjectProxy[Any]):
    """A driver's connection within a branch."""

    def __init__(self, wrapped: Any, lender: Lender) -> None:
        super().__init__(wrapped)
        self._self_lender = lender
        self._self_awaited = inspect.iscoroutinefunction(getattr(wrapped, "commit", None)) or (
            # asyncpg has no such method: blocks of it begin and end its transactions.
            inspect.iscoroutinefunction(getattr(wrapped, "fetch", None))
        )

    def _self_done(self, step: Coroutine[Any, Any, None]) -> Any:
        return step if self._self_awaited else drive(step)

    def commit(self) -> Any:
        """What the mode makes of it."""
        return self._self_done(self._self_lender.commit())

    def rollback(self) -> Any:
        """What the mode makes of it."""
        return self._self_done(self._self_lender.rollback())

    def close(self, *_: Any, **__: Any) -> Any:
        """Nothing of the driver's: the mode closes it."""
        return self._self_done(self._self_lender.close())

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
