"""Does one piece of work with a message or behind the barrier, in a process that may be killed.

The arguments are what to do, where the database is, the cluster, and where a receiver is. A
database is a file of SQLite, or `mariadb:USER@HOST:PORT/NAME`, `postgresql:USER@HOST:PORT/NAME`.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
from contextlib import closing
from typing import Any

import psycopg
import pymysql

from tidelock import Application
from tidelock.barrier import Branch, BranchBarrier, barrier_ddl
from tidelock.client.messages import MessageStep
from tidelock.messages import (
    Inbox,
    Message,
    Outbox,
    OutboxRelay,
    inbox_ddl,
    outbox_ddl,
    send,
)
from tidelock.messages.http import HttpPublisher

BRANCH = Branch(trans_type="saga", gid="g", branch_id="01", op="action")
RECEIVED = Message(id="m1", topic="paid", payload="1")


class Place:
    """A database in which work is one row, with all tables of the SDK."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._server = _SERVER.fullmatch(where)

    def make(self) -> None:
        kind = "sqlite" if self._server is None else self._server["kind"]
        dialect = "mysql" if kind == "mariadb" else kind
        with closing(self.connect()) as connection:
            execute(connection, "CREATE TABLE work (n INTEGER)")
            for statement in [barrier_ddl(dialect), inbox_ddl(dialect), *outbox_ddl(dialect)]:
                execute(connection, statement)
            connection.commit()

    def connect(self) -> Any:
        server = self._server
        if server is None:
            return sqlite3.connect(self.where, timeout=20)
        whose = {"host": server["host"], "port": int(server["port"]), "user": server["user"]}
        options: dict[str, Any] = whose
        if server["kind"] == "mariadb":
            return pymysql.connect(**options, database=server["name"])
        return psycopg.connect(**options, dbname=server["name"])

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(self.connect()) as connection:
            return [*execute(connection, query).fetchall()]

    @property
    def work(self) -> int:
        return len(self.rows("SELECT n FROM work"))


_SERVER = re.compile(
    r"(?P<kind>mariadb|postgresql):(?P<user>\w+)@(?P<host>[\d.]+):(?P<port>\d+)/(?P<name>\w+)"
)


def execute(connection: Any, statement: str) -> Any:
    cursor = connection.cursor()
    cursor.execute(statement)
    return cursor


def work(connection: Any) -> None:
    execute(connection, "INSERT INTO work VALUES (1)")


def fail(connection: Any) -> None:
    work(connection)
    raise LookupError("broken on purpose")


def send_message(place: Place, cluster: str, receiver: str, *, fails: bool) -> None:
    steps = [MessageStep(action=f"{receiver}/deliver", payload={})]
    with (
        Application([cluster], application_id="orders", discover=False) as application,
        closing(place.connect()) as connection,
    ):
        send(
            connection,
            fail if fails else work,
            steps,
            query=f"{receiver}/asked",
            application=application,
            query_after_ms=200,
        )


def write_message(place: Place) -> None:
    with closing(place.connect()) as connection:
        work(connection)
        Outbox().add(connection, "paid", 1, id="m1")
        connection.commit()


async def relay(
    place: Place, receiver: str, *, path: str = "deliver", reply_to: str = ""
) -> OutboxRelay:
    async with HttpPublisher({"paid": f"{receiver}/{path}"}) as publisher:
        made = OutboxRelay(place.connect, publisher, reply_to=reply_to)
        await made.once()
        return made


async def acknowledge(place: Place, receiver: str) -> None:
    made = await relay(place, receiver, path="accept", reply_to="back")
    await made.acknowledged(Message(id="m1", topic="back", payload='{"acknowledged":"m1"}'))


def main(what: str, where: str, cluster: str, receiver: str) -> None:
    place = Place(where)
    match what:
        case "send" | "fail":
            send_message(place, cluster, receiver, fails=what == "fail")
        case "write":
            write_message(place)
        case "relay":
            write_message(place)
            asyncio.run(relay(place, receiver))
        case "acknowledge":
            write_message(place)
            asyncio.run(acknowledge(place, receiver))
        case "receive":
            with closing(place.connect()) as connection:
                Inbox().receive(connection, RECEIVED, work)
        case "branch":
            with closing(place.connect()) as connection:
                BranchBarrier(BRANCH).run(connection, work)


if __name__ == "__main__":
    main(*sys.argv[1:])
