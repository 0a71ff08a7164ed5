"""Connections whose statements go to another connection while a mode has that for them.

A framework keeps a connection of its own, which its pool tests and sets up. In a transaction its
local transactions take place elsewhere: on the connection that a mode holds for the whole group.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

from tidelock.sql.session import Session

try:
    import wrapt
except ImportError as missing:
    raise ImportError(
        'connections that take part in transactions need more: pip install "tidelock[sql]"'
    ) from missing


class Elsewhere(Protocol):
    """Where statements go, for one connection of a framework."""

    @property
    def is_wanted(self) -> bool:
        """Statements go there now."""
        ...

    @property
    def is_under_way(self) -> bool:
        """A local transaction of this connection has begun there."""
        ...

    def begin(self, own: Session) -> Any:
        """Begin a local transaction there unless one is under way, and return its connection.

        `own` is the framework's own connection.

        Raises: what the mode does.
        """
        ...

    def end(self, *, failed: bool) -> None:
        """End what was begun there. Raises: what the mode does; then it is undone."""
        ...


class SwitchingConnection(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A framework's connection. What is not said here is the driver's."""

    def __init__(
        self, connection: Any, session: Session, elsewhere: Elsewhere, *, is_lent: bool
    ) -> None:
        """`is_lent`: somebody uses it, and not only the pool that looks after it."""
        super().__init__(connection)
        self._self_session = session
        self._self_elsewhere = elsewhere
        self._self_is_lent = is_lent

    def tidelock_lend(self, *, is_lent: bool) -> None:
        """Say whether somebody has it from the pool. What its last user left open is undone."""
        self._self_is_lent = is_lent
        if not is_lent and self._self_elsewhere.is_under_way:
            self._self_elsewhere.end(failed=True)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        """Return a cursor of the connection on which its statements belong."""

        def cursor_of(connection: Any) -> Any:
            return connection.cursor(*arguments, **options)

        own = cursor_of(self.__wrapped__)
        if self._self_is_lent and self._self_elsewhere.is_wanted:
            return SwitchingCursor(own, self, cursor_of)
        return own

    def commit(self) -> Any:
        """Commit the local transaction, wherever it is."""
        if self._self_elsewhere.is_under_way:
            return self._self_elsewhere.end(failed=False)
        return self.__wrapped__.commit()

    def rollback(self) -> Any:
        """Roll the local transaction back, wherever it is."""
        if self._self_elsewhere.is_under_way:
            return self._self_elsewhere.end(failed=True)
        return self.__wrapped__.rollback()

    def close(self) -> Any:
        """Close the framework's own connection; what it has begun elsewhere is undone."""
        if self._self_elsewhere.is_under_way:
            with contextlib.suppress(Exception):
                self._self_elsewhere.end(failed=True)
        return self.__wrapped__.close()

    def execute(self, *arguments: Any, **options: Any) -> Any:
        """As `cursor().execute`, of psycopg and sqlite3."""
        return self.cursor().execute(*arguments, **options)

    def executemany(self, *arguments: Any, **options: Any) -> Any:
        """As `cursor().executemany`, of sqlite3."""
        return self.cursor().executemany(*arguments, **options)

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.commit()
        else:
            self.rollback()


class SwitchingCursor(wrapt.ObjectProxy):  # type: ignore[type-arg]  # no generic at run time
    """A cursor whose statements go elsewhere.

    Of a connection that commits each statement by itself, each is a local transaction there; a
    BEGIN begins one that goes on.
    """

    def __init__(
        self, cursor: Any, connection: SwitchingConnection, cursor_of: Callable[[Any], Any]
    ) -> None:
        super().__init__(cursor)
        self._self_own = cursor
        self._self_elsewhere = connection._self_elsewhere
        self._self_session = connection._self_session
        self._self_cursor_of = cursor_of

    def execute(self, text: Any, *arguments: Any, **options: Any) -> Any:
        """Execute a statement."""
        if self._self_commits_each:
            words = text.upper().split() if isinstance(text, str) else []
            if words[:1] == ["BEGIN"]:
                self._self_elsewhere.begin(self._self_session)
                return self
            if words == ["SELECT", "1"]:
                # Somebody asks whether the connection lives.
                return self._self_done(self._self_own, "execute", text, *arguments, **options)
        return self._self_there("execute", text, *arguments, **options)

    def executemany(self, text: Any, *arguments: Any, **options: Any) -> Any:
        """Execute a statement for each of several groups of values."""
        return self._self_there("executemany", text, *arguments, **options)

    @property
    def _self_commits_each(self) -> bool:
        return not self._self_elsewhere.is_under_way and self._self_session.autocommits

    def _self_there(self, method: str, *arguments: Any, **options: Any) -> Any:
        elsewhere, alone = self._self_elsewhere, self._self_commits_each
        cursor = self._self_cursor_of(elsewhere.begin(self._self_session))
        try:
            done = self._self_done(cursor, method, *arguments, **options)
        except BaseException:
            if alone:
                elsewhere.end(failed=True)
            raise
        if alone:
            elsewhere.end(failed=False)
        return done

    def _self_done(self, cursor: Any, method: str, *arguments: Any, **options: Any) -> Any:
        before, self.__wrapped__ = self.__wrapped__, cursor
        if before is not self._self_own and before is not cursor:
            before.close()
        done = getattr(cursor, method)(*arguments, **options)
        return self if done is cursor else done

    def close(self) -> None:
        """Close it, and what stood for it."""
        if self.__wrapped__ is not self._self_own:
            self.__wrapped__.close()
        self._self_own.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__wrapped__)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *why: Any) -> None:
        self.close()
