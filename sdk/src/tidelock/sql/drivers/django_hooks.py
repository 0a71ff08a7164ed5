"""Django's connections, seen by a mode: `DATABASES` and the ORM stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from django.db import connections
    from django.db.backends.signals import connection_created
    from django.db.models.sql.compiler import SQLInsertCompiler
except ImportError as missing:
    raise ImportError(
        'connections of Django that take part need more: pip install "tidelock[django]"'
    ) from missing


def opener(alias: str) -> Callable[[], Any]:
    """Return what opens a connection of a database of `DATABASES`, beside Django's own."""

    def connect() -> Any:
        wrapper = connections[alias]
        return wrapper.get_new_connection(wrapper.get_connection_params())

    return connect


def setter_up(alias: str) -> Callable[[], Any]:
    """Return what opens a connection as Django's own ones are, with all that Django and receivers
    of `connection_created` set there, and which does not take part by itself.
    """

    def connect() -> Any:
        wrapper: Any = connections[alias].copy()
        wrapper.tidelock_own = True
        wrapper.connect()
        return wrapper.connection

    return connect


def install(alias: str, wrap: Callable[[Any], Any]) -> None:
    """Have the connections of a database of `DATABASES` take part, from now on and in all threads.

    `wrap` makes of a driver's connection one that takes part.
    """

    def created(sender: Any, connection: Any, **_: Any) -> None:
        if connection.alias == alias and not hasattr(connection, "tidelock_own"):
            connection.connection = wrap(connection.connection)
            if connection.vendor == "postgresql":
                _write_rows_out(connection.ops)

    connection_created.connect(created, weak=False, dispatch_uid=f"tidelock-{alias}")
    # One that this thread has already is made anew when it is next needed.
    connections[alias].close()


def _write_rows_out(operations: Any) -> None:
    """Have several rows inserted by VALUES. Django 5.2 unfolds arrays on PostgreSQL, of which
    nobody knows beforehand which rows an ON CONFLICT will meet.
    """
    if "compiler" in vars(operations):
        return
    given = operations.compiler

    def compiler(name: str) -> Any:
        return SQLInsertCompiler if name == "SQLInsertCompiler" else given(name)

    operations.compiler = compiler
