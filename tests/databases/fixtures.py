"""Fixtures of every test that wants a real database.

`mariadb` and `postgresql` are servers, started once a worker process when the first test asks;
`mariadb_database`, `postgresql_database` and `sqlite_file` are empty databases of one test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases.servers import Server, mariadb_server, postgresql_server


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
