"""Database servers of the tests: where one is not installed, a test says so and fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from scripts.tidelock_scripts import database_servers
from scripts.tidelock_scripts.database_servers import (
    PREPARED_TRANSACTIONS,
    Server,
    ServerMissingError,
)

__all__ = ["PREPARED_TRANSACTIONS", "Server", "mariadb_server", "postgresql_server"]


@contextmanager
def _installed(server: Callable[[], AbstractContextManager[Server]]) -> Iterator[Server]:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(server())
        except ServerMissingError as missing:
            pytest.fail(f"{missing} Or leave these tests out: -m 'not databases'", pytrace=False)
        yield running


def mariadb_server() -> AbstractContextManager[Server]:
    """Run MariaDB."""
    return _installed(database_servers.mariadb_server)


def postgresql_server() -> AbstractContextManager[Server]:
    """Run PostgreSQL."""
    return _installed(database_servers.postgresql_server)
