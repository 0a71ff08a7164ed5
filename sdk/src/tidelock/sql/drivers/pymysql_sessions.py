"""Connections of PyMySQL as sessions."""

from __future__ import annotations

from typing import Any

import pymysql
from pymysql.constants import CLIENT, SERVER_STATUS
from pymysql.cursors import Cursor

from tidelock.sql.dialects import MYSQL
from tidelock.sql.drivers.blocking import BlockingSession
from tidelock.sql.placeholders import Style


class PyMySQLSession(BlockingSession):
    """A connection of PyMySQL."""

    dialect = MYSQL
    style = Style.FORMAT

    def _cursor(self) -> Any:
        # Not the application's class of cursors, which may return dictionaries.
        return self._connection.cursor(Cursor)

    @property
    def in_transaction(self) -> bool:
        """As the server said with its last answer."""
        return bool(self._connection.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS)

    @property
    def autocommits(self) -> bool:
        """As the server said with its last answer."""
        return bool(self._connection.get_autocommit()) and not self.in_transaction

    @property
    def counts_found_rows(self) -> bool:
        """As it was agreed when the connection was made."""
        return bool(self._connection.client_flag & CLIENT.FOUND_ROWS)

    async def begin(self) -> None:
        """Begin a local transaction, also where each statement is committed by itself."""
        self._connection.begin()


def session(connection: pymysql.connections.Connection[Any]) -> PyMySQLSession:
    """Return the session of a connection."""
    return PyMySQLSession(connection)
