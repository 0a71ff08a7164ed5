"""What is kept of a branch: in the table as it is documented, in parts when it is large."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

import tidelock
from tests.databases.connections import Database
from tests.sdk.at_sources import Shop, undone
from tidelock.at.deletions import Deletions
from tidelock.at.errors import ImageMismatchError
from tidelock.at.undo_log import UndoLog, undo_log_ddl
from tidelock.at.undo_records import (
    COMPRESSED_FROM_BYTES,
    Change,
    ChangedRow,
    Operation,
    UndoRecordError,
    decode,
    encode,
)
from tidelock.driving import drive
from tidelock.sql.dialects import DIALECTS
from tidelock.sql.drivers import session_of
from tidelock.sql.values import Written

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

EVERYWHERE = pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)


def change(size: int) -> Change:
    rows = (
        ChangedRow((1,), (1, b"\0" * size), None),
        ChangedRow((2,), None, (2, Written("json", "{}"))),
    )
    return Change(Operation.UPDATE, "shop", "t", ("id", "v"), rows)


@pytest.mark.parametrize("size", [0, COMPRESSED_FROM_BYTES])
def test_a_record_comes_back_as_it_was(size: int) -> None:
    body, compression = encode([change(size), change(1)])
    assert compression == ("zlib" if size else "none")
    assert decode(body, compression) == [change(size), change(1)]


@pytest.mark.parametrize(
    ("body", "compression", "what"),
    [
        (b"", "none", "cannot be read"),
        (b"\x92\x63\x90", "none", "newer release"),
        (encode([change(70_000)])[0][:-9], "zlib", "cut off"),
        (b"\x92\x01\x91\x01", "none", "cannot be read"),
    ],
)
def test_a_record_that_is_none_is_refused(body: bytes, compression: str, what: str) -> None:
    with pytest.raises(UndoRecordError, match=what):
        decode(body, compression)


@EVERYWHERE
def test_what_does_not_fit_into_a_packet_stands_in_several_rows(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect = DIALECTS[database.dialect]
    monkeypatch.setattr(type(dialect), "greatest_bytes", 100)
    database.sql(undo_log_ddl(dialect.name))
    log = UndoLog(dialect)
    session = session_of(database.connect())
    noise = Change(
        Operation.DELETE, "", "t", ("id",), tuple(ChangedRow((n,), (n,), None) for n in range(200))
    )
    drive(session.begin())
    drive(log.insert(session, "a:1", 7, [noise]))
    drive(log.insert(session, "a:1", 8, [change(0)]))
    found = drive(log.read(session, "a:1", 7, locks=True))
    assert found is not None
    assert list(found.changes) == [noise]
    drive(log.bury(session, "a:1", 7))
    drive(session.commit())
    count = f"SELECT count(*) FROM {log.name}"
    assert database.sql(count) == [(2,)]
    drive(session.begin())
    drive(log.delete(session, [("a:1", 7), ("a:1", 8)]))
    drive(session.commit())
    drive(session.close())
    assert database.sql(count) == [(0,)]


def test_there_is_no_table_for_another_dialect() -> None:
    with pytest.raises(ValueError, match="oracle"):
        undo_log_ddl("oracle")  # type: ignore[arg-type]


@pytest.mark.parametrize("database", ["postgresql", "mysql"], indirect=True)
def test_a_row_that_another_session_inserts_meanwhile_is_not_taken_for_ours(
    bare_shop: Shop,
) -> None:
    shop = bare_shop
    shop.database.sql("CREATE TABLE t (id INT PRIMARY KEY, v INT)")
    upsert = {
        "postgresql": "INSERT INTO t VALUES (1, 5) ON CONFLICT (id) DO UPDATE SET v = t.v + 5",
        "mysql": "INSERT INTO t VALUES (1, 5) ON DUPLICATE KEY UPDATE v = t.v + 5",
    }[shop.dialect]

    def work() -> None:
        with shop.local() as cursor:
            if shop.dialect == "mysql":
                cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
                cursor.connection.commit()
            real = cursor.__wrapped__

            class Slow:
                """Lets another session insert the row between the image and the statement."""

                def __getattr__(self, name: str) -> Any:
                    return getattr(real, name)

                def execute(self, *arguments: Any, **options: Any) -> Any:
                    shop.database.sql("INSERT INTO t VALUES (1, 100)")
                    return real.execute(*arguments, **options)

            cursor.__wrapped__ = Slow()
            cursor.execute(upsert)

    with pytest.raises(ImageMismatchError):
        shop.within(work)
    assert shop.rows() == [(1, 100)]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_money_is_neither_made_nor_lost_by_transfers_that_meet(bare_shop: Shop) -> None:
    shop = bare_shop
    application = shop.source.application
    shop.database.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, v INT)",
        "INSERT INTO t VALUES (0, 100), (1, 100), (2, 100)",
    )

    @tidelock.local_transaction(application=application, lock_wait_timeout_ms=20_000)
    def add(account: int, money: int) -> None:
        shop.execute(("UPDATE t SET v = v + ? WHERE id = ?", (money, account)))

    def transfers(worker: int) -> None:
        for number in range(4):
            try:
                with tidelock.transaction(application=application):
                    add((worker + number) % 3, -7)
                    add((worker + number + 1) % 3, 7)
                    if number == 2:
                        raise KeyError(number)
            except (KeyError, tidelock.TidelockError):
                continue

    threads = [threading.Thread(target=transfers, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
        assert not thread.is_alive()
    shop.coordinator.assert_clean()
    assert sum(row[1] for row in shop.rows()) == 300
    assert shop.undo_rows() == []


@EVERYWHERE
def test_undo_rows_hold_the_fields_that_are_documented(bare_shop: Shop) -> None:
    bare_shop.database.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, v INT)", "INSERT INTO t VALUES (1, 1)"
    )
    seen: list[tuple[Any, ...]] = []

    def work() -> None:
        bare_shop.execute("UPDATE t SET v = 2")
        seen.extend(bare_shop.undo_rows())
        assert tidelock.current_xid() == seen[0][0]

    bare_shop.undone_by(work)
    assert [row[1:] for row in seen] == [(seen[0][1], 0)]
    assert undone(bare_shop, "UPDATE t SET v = 3") == [(1, 3)]


async def test_what_was_just_deleted_is_not_deleted_again() -> None:
    deleted: list[list[tuple[str, int]]] = []
    under_way = 0

    async def delete(branches: Sequence[tuple[str, int]]) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1, "of two statements that delete the same rows one may deadlock"
        await asyncio.sleep(0)
        deleted.append(list(branches))
        under_way -= 1

    deletions = Deletions(delete)
    deletions.add(("x", 1))
    deletions.add(("x", 2))
    await deletions.clean([("x", 2), ("y", 3)], delete)
    await deletions.drain()
    await deletions.clean([("x", 1), ("y", 4)], delete)
    assert deleted == [[("x", 2), ("y", 3)], [("x", 1)], [("y", 4)]]
    assert deletions.waiting == 0
    await deletions.clean([("x", 1)], delete)
    assert deleted[3:] == [[("x", 1)]]


async def test_what_could_not_be_deleted_is_deleted_when_it_is_cleaned() -> None:
    deleted: list[list[tuple[str, int]]] = []
    failures = [OSError("the database is gone")]

    async def delete(branches: Sequence[tuple[str, int]]) -> None:
        if failures:
            raise failures.pop()
        deleted.append(list(branches))

    deletions = Deletions(delete)
    deletions.add(("x", 1))
    await deletions.drain()
    assert deleted == []
    await deletions.clean([("x", 1)], delete)
    assert deleted == [[("x", 1)]]
