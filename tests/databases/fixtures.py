"""Fixtures of every test that wants a real database.

`mariadb` and `postgresql` are servers, started once a worker process when the first test asks;
`mariadb_database`, `postgresql_database` and `sqlite_file` are empty databases of one test.
`database` is one too, of the dialect or the driver by which a test is parametrised (`mysql`,
`postgresql`, `sqlite`, or the name of a driver)::

    @pytest.mark.parametrize("database", DRIVERS, indirect=True)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.databases.servers import Server, mariadb_server, postgresql_server

if TYPE_CHECKING:
    from tests.databases.connections import Database


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    with mariadb_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    with postgresql_server() as server:
        yield server


@pytest.fixture
def mariadb_database(mariadb: Server) -> Iterator[str]:
    with mariadb.database() as name:
        yield name


@pytest.fixture
def postgresql_database(postgresql: Server) -> Iterator[str]:
    with postgresql.database() as name:
        yield name


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    """Where a database may be made."""
    return tmp_path / "test.db"


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    # The drivers are imported by the tests that use them.
    from tests.databases.connections import DIALECT_OF, database_of  # noqa: PLC0415

    wanted: str = request.param
    with ExitStack() as stack:
        yield database_of(DIALECT_OF.get(wanted, wanted), request, tmp_path, stack)
