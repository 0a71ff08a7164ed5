"""Which database a connection leads to, as the database itself says.

Two services that reach one database by different names, addresses or proxies must not miss each
other's row locks, so none of what they wrote into their connection strings counts.
"""

from __future__ import annotations

import os
from typing import Final
from urllib.parse import quote

import msgspec

from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.sql.session import Session

GREATEST_RESOURCE_BYTES: Final = 256


class Identity(msgspec.Struct, frozen=True):
    """A database, as one of its connections sees it."""

    resource_id: str
    """The same for all who reach it: `mysql:<server>/<database>`,
    `postgresql:<system identifier>/<database>`, `sqlite:<absolute path>`."""
    database: str


async def identify(session: Session) -> Identity:
    """Ask the server who it is.

    Raises:
        DatabaseUnsuitableError: no database is chosen, it is in memory, or texts would not come
            through whole.
    """
    match session.dialect.name:
        case "mysql":
            return await _mysql(session)
        case "postgresql":
            return await _postgresql(session)
        case "sqlite":
            return await _sqlite(session)


async def _mysql(session: Session) -> Identity:
    found = await session.execute(
        "SELECT DATABASE(), @@character_set_client, @@character_set_results, @@hostname, @@port,"
        " VERSION()"
    )
    database, client, results, host, port, version = map(_text, found.rows[0])
    if database == "None":
        raise DatabaseUnsuitableError("the connection has chosen no database; name one in it")
    if not client == results == "utf8mb4":
        raise DatabaseUnsuitableError(
            f"the connection's character set is {client}, so that some texts would come back "
            "changed; connect with charset='utf8mb4'"
        )
    if "MariaDB" in version:
        # It has no identity of its own beyond where it runs.
        server = f"{host}:{port}"
    else:
        server = _text((await session.execute("SELECT @@server_uuid")).rows[0][0])
    return Identity(_resource("mysql", server, database), database)


async def _postgresql(session: Session) -> Identity:
    found = await session.execute(
        "SELECT current_database()::text, system_identifier::text FROM pg_control_system()"
    )
    database, server = map(_text, found.rows[0])
    return Identity(_resource("postgresql", server, database), database)


async def _sqlite(session: Session) -> Identity:
    found = await session.execute("PRAGMA database_list")
    file = next(_text(row[2]) for row in found.rows if row[1] == "main")
    if not file:
        raise DatabaseUnsuitableError(
            "a database in memory, or a temporary one, cannot be undone from another connection; "
            "use a file"
        )
    path = os.path.realpath(file)  # noqa: ASYNC240 (links of a path, once a connection)
    return Identity(_checked(f"sqlite:{quote(path, safe='/ ')}"), path)


def _resource(kind: str, server: str, database: str) -> str:
    return _checked(f"{kind}:{quote(server, safe=':')}/{quote(database, safe=' ')}")


def _checked(resource_id: str) -> str:
    if len(resource_id.encode()) > GREATEST_RESOURCE_BYTES:
        raise DatabaseUnsuitableError(
            f"{resource_id} has more than {GREATEST_RESOURCE_BYTES} bytes; give the resource a "
            "shorter name with resource_id="
        )
    return resource_id


def _text(raw: object) -> str:
    return raw.decode() if isinstance(raw, (bytes, bytearray)) else str(raw)
