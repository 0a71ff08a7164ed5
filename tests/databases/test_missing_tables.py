"""A table of Tidelock's that is not there is named, with its database and what makes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

import tidelock
from tests.databases.connections import DIALECT_OF, DRIVERS, Database
from tests.sdk.at_sources import Shop
from tidelock.at.undo_log import DEFAULT_TABLES, UndoLog
from tidelock.barrier.barrier import BranchBarrier
from tidelock.barrier.branch import Branch
from tidelock.fence.fence_table import FenceStatus, FenceTable
from tidelock.messages.inbox import Inbox
from tidelock.messages.message import Message
from tidelock.messages.outbox import Outbox
from tidelock.saga.results import ResultTable
from tidelock.sql.errors import TableMissingError
from tidelock.sql.session import Session
from tidelock.testing import Coordinator

pytestmark = [pytest.mark.databases, pytest.mark.timeout(120)]

BRANCH = Branch(trans_type="saga", gid="x:1", branch_id="01", op="action")
MESSAGE = Message(id="1", topic="t", payload="{}")

USES: dict[str, Callable[[Session], Awaitable[object]]] = {
    "undo-log": lambda session: UndoLog(session.dialect).insert(session, "x:1", 1, []),
    "fence": lambda session: FenceTable(session.dialect).insert(
        session, ("x:1", 1), "take", FenceStatus.TRIED, "{}", cluster_id="c"
    ),
    "barrier": lambda session: BranchBarrier(BRANCH).enter(session),
    "saga-result": lambda session: ResultTable(session.dialect).read(session, ("x:1", "01")),
    "outbox": lambda session: Outbox().put(session, "t", {}, id=None, delay_ms=0),
    "inbox": lambda session: Inbox().enter(session, MESSAGE),
}


@pytest.mark.parametrize("database", DRIVERS, indirect=True)
async def test_every_use_of_a_table_says_what_makes_it(
    database: Database, request: pytest.FixtureRequest
) -> None:
    driver: str = request.node.callspec.params["database"]
    for command, use in USES.items():
        async with database.session(driver) as session:
            await session.begin()
            with pytest.raises(TableMissingError) as raised:
                await use(session)
            await session.rollback()
        said = str(raised.value)
        assert f"{database.name} has no table" in said
        assert f"tidelock {command} ddl --dialect {DIALECT_OF[driver]}" in said
        assert raised.value.__cause__ is not None


@pytest.mark.parametrize("database", ["mysql", "postgresql", "sqlite"], indirect=True)
def test_at_says_so_before_anything_is_changed(
    database: Database, tidelock_coordinator: Coordinator
) -> None:
    with tidelock_coordinator.application() as application:
        shop = Shop(database, application)
        database.sql(f"DROP TABLE {DEFAULT_TABLES[shop.dialect]}", "CREATE TABLE t (id INT)")
        with (
            pytest.raises(TableMissingError, match="undo-log"),
            tidelock.transaction(application=application),
        ):
            shop.execute("INSERT INTO t VALUES (1)")
        shop.source.close()
    (transaction,) = tidelock_coordinator.transactions()
    assert tidelock_coordinator.transaction(transaction.xid).branches == []
    assert shop.rows() == []
