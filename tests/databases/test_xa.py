"""Branches of XA on real servers: both or neither, whatever dies, and nothing left prepared."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

import tidelock
from tests.databases.connections import Database
from tests.databases.nothing_left import assert_nothing_left
from tidelock.crash_points import watched
from tidelock.driving import drive
from tidelock.rm.resource import BranchCall, BranchStatus, PhaseTwoStatus
from tidelock.sql.errors import DatabaseUnsuitableError
from tidelock.testing import Coordinator
from tidelock.xa import XaBranchError, XaMisuseError, XaSource

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("tidelock_application")]

SERVERS: Final = pytest.mark.parametrize("database", ["mysql", "postgresql"], indirect=True)
AWAITING: Final = pytest.mark.parametrize("database", ["asyncmy", "asyncpg"], indirect=True)


@pytest.fixture
def coordinator(tidelock_coordinator: Coordinator) -> Coordinator:
    return tidelock_coordinator


@pytest.fixture
def source(database: Database, coordinator: Coordinator) -> Iterator[XaSource]:
    """A table of stock. Nothing of it is left prepared when the test ends."""
    database.sql("CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL)")
    database.sql("INSERT INTO stock VALUES (1, 10), (2, 20)")
    made = XaSource(database.connect)
    made.attach()
    yield made
    assert_nothing_left(coordinator, database)
    assert made.application.client.run(lambda _: made.prepared()) == []


def count(database: Database, key: int = 1) -> int:
    return int(database.sql(f"SELECT n FROM stock WHERE id = {key}")[0][0])


def take(connection: Any, key: int = 1) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE stock SET n = n - 1 WHERE id = {key}")


def branches(coordinator: Coordinator, xid: str) -> list[str]:
    return [branch.status for branch in coordinator.transaction(xid).branches]


# --- the first phase, and what follows


@SERVERS
def test_a_branch_is_committed_with_its_transaction(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    with tidelock.transaction("purchase") as transaction:
        with source.connection() as connection:
            take(connection)
        assert count(database) == 10, "nobody else sees it before the decision"
    assert transaction.status == "COMMITTED"
    assert branches(coordinator, transaction.xid) == ["PHASE_TWO_COMMITTED"]
    assert count(database) == 9
    coordinator.assert_clean()


@SERVERS
def test_a_branch_is_rolled_back_with_its_transaction(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    @tidelock.global_transaction
    def purchase() -> None:
        with source.connection() as connection:
            take(connection)
        raise LookupError("sold out")

    with pytest.raises(LookupError):
        purchase()
    assert coordinator.transactions()[0].status == "ROLLED_BACK"
    assert count(database) == 10
    coordinator.assert_clean()


@SERVERS
def test_the_same_row_twice_in_one_transaction_does_not_wait_for_itself(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    with tidelock.transaction() as transaction:
        with source.connection() as first:
            take(first)
            with source.connection() as nested:
                take(nested)
        with source.connection() as second, second.cursor() as cursor:
            cursor.execute("SELECT n FROM stock WHERE id = 1")
            assert cursor.fetchone() == (8,), "one connection sees its own work"
            take(second)
    assert count(database) == 7
    assert branches(coordinator, transaction.xid) == ["PHASE_TWO_COMMITTED"]


@SERVERS
def test_a_participant_prepares_when_its_outermost_block_ends(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    begun = coordinator.client.run(lambda client: client.transactions.begin())
    with tidelock.bound(begun.xid):
        with source.connection() as connection:
            take(connection)
            with source.connection() as nested:
                take(nested, 2)
            assert branches(coordinator, begun.xid) == ["REGISTERED"]
        assert branches(coordinator, begun.xid) == ["PHASE_ONE_DONE"]
    coordinator.client.run(lambda client: client.transactions.commit(begun.xid))
    assert (count(database), count(database, 2)) == (9, 19)


@SERVERS
def test_what_only_reads_is_left_out_of_the_second_phase(
    coordinator: Coordinator, source: XaSource
) -> None:
    with (
        tidelock.transaction() as transaction,
        source.connection() as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT n FROM stock")
    assert transaction.status == "COMMITTED"
    assert branches(coordinator, transaction.xid) == ["PHASE_ONE_READ_ONLY"]


@SERVERS
def test_outside_of_transactions_a_block_is_a_local_transaction(
    database: Database, source: XaSource
) -> None:
    with source.connection() as connection:
        take(connection)
    assert count(database) == 9

    def fail() -> None:
        with source.connection() as connection:
            take(connection)
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert count(database) == 9


@SERVERS
def test_a_failed_block_makes_the_transaction_impossible_to_commit(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    def fail() -> None:
        with source.connection() as connection:
            take(connection)
            raise LookupError

    @tidelock.global_transaction
    def purchase() -> None:
        with pytest.raises(LookupError):
            fail()
        # Its work is undone at once, so others need not wait for its rows.
        database.sql("UPDATE stock SET n = 5 WHERE id = 1")

    with pytest.raises(tidelock.TransactionRolledBackError):
        purchase()
    coordinator.wait_until(lambda: coordinator.transactions()[0].status == "ROLLED_BACK")
    assert count(database) == 5


@SERVERS
def test_commit_on_the_connection_does_nothing_and_rollback_refuses(
    database: Database, source: XaSource
) -> None:
    with tidelock.transaction(), source.connection() as connection:
        take(connection)
        connection.commit()
        connection.close()
        take(connection)
    assert count(database) == 8

    @tidelock.global_transaction
    def purchase() -> None:
        with source.connection() as connection:
            take(connection)
            connection.rollback()

    with pytest.raises(XaBranchError, match="rolled back on the branch's connection"):
        purchase()
    assert count(database) == 8


@SERVERS
def test_a_statement_that_failed_is_not_prepared(database: Database, source: XaSource) -> None:
    @tidelock.global_transaction
    def purchase() -> None:
        with source.connection() as connection, connection.cursor() as cursor:
            take(connection)
            cursor.execute("INSERT INTO stock VALUES (1, 1)")

    with pytest.raises(Exception, match=r"[Dd]uplicate"):
        purchase()
    assert count(database) == 10


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_postgresql_prepares_no_transaction_that_has_failed(
    database: Database, source: XaSource
) -> None:
    """PREPARE TRANSACTION of one that has failed rolls back and says nothing of it."""

    @tidelock.global_transaction
    def purchase() -> None:
        with source.connection() as connection, connection.cursor() as cursor:
            take(connection)
            with pytest.raises(Exception, match="duplicate"):
                cursor.execute("INSERT INTO stock VALUES (1, 1)")

    with pytest.raises(XaBranchError):
        purchase()
    assert count(database) == 10


@SERVERS
def test_two_threads_cannot_share_a_branch_at_once(source: XaSource) -> None:
    caught: list[BaseException] = []

    def use(found: tidelock.Transaction) -> None:
        try:
            with tidelock.transaction(), source.connection():
                pass
        except BaseException as error:
            caught.append(error)

    with tidelock.transaction() as transaction, source.connection():
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(use, transaction))
        thread.start()
        thread.join()
    assert [type(error) for error in caught] == [XaMisuseError]


@SERVERS
def test_a_branch_that_is_late_is_never_started(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    begun = coordinator.client.run(lambda client: client.transactions.begin())
    coordinator.client.run(lambda client: client.transactions.rollback(begun.xid))
    with tidelock.bound(begun.xid), pytest.raises(tidelock.TidelockError), source.connection():
        pytest.fail("it began")
    assert count(database) == 10


@SERVERS
def test_prepared_after_its_transaction_has_ended_it_is_rolled_back(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    """A rollback came before PREPARE and found nothing; nobody will ask again."""
    begun = coordinator.client.run(lambda client: client.transactions.begin())

    def end_it(point: str) -> None:
        if point == "xa.before-prepare":
            coordinator.client.run(lambda c: c.transactions.rollback(begun.xid, wait_ms=0))

    with (
        watched(end_it),
        tidelock.bound(begun.xid),
        pytest.raises(XaBranchError, match="ended"),
        source.connection() as connection,
    ):
        take(connection)
    assert count(database) == 10
    coordinator.assert_clean()


# --- the second phase, asked as the coordinator asks


def prepared_alone(coordinator: Coordinator, source: XaSource) -> BranchCall:
    """Leave a branch prepared, as one of a transaction that is under way."""
    begun = coordinator.client.run(lambda client: client.transactions.begin())
    with tidelock.bound(begun.xid), source.connection() as connection:
        take(connection)
    (branch,) = coordinator.transaction(begun.xid).branches
    return BranchCall(
        xid=begun.xid,
        branch_id=branch.branch_id,
        mode="XA",
        resource_id=source.resource_id,
        application_data=branch.application_data,
    )


def ask(source: XaSource, question: str, call: BranchCall) -> Any:
    return source.application.client.run(lambda _: getattr(source, question)(call))


@SERVERS
def test_asked_twice_a_branch_answers_the_same(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    call = prepared_alone(coordinator, source)
    assert ask(source, "status", call) is BranchStatus.PREPARED
    done = BranchCall(
        xid=call.xid, branch_id=call.branch_id, mode="XA", resource_id=call.resource_id,
        phase_one_done=True,
    )  # fmt: skip
    for _ in range(2):
        assert ask(source, "commit", done).status is PhaseTwoStatus.COMMITTED
    assert ask(source, "status", call) is BranchStatus.UNKNOWN
    assert count(database) == 9
    coordinator.client.run(lambda client: client.transactions.commit(call.xid))


@SERVERS
def test_unknown_to_the_database_is_rolled_back_only_when_nobody_can_prepare_it(
    coordinator: Coordinator, source: XaSource
) -> None:
    del coordinator
    application = source.application
    ours = {"sessionId": drive(application.session_id(application.blocking))}

    def call(owner: object, *, gone: bool = False) -> BranchCall:
        return BranchCall(
            xid="h:1:99", branch_id=7, mode="XA", resource_id=source.resource_id,
            application_data=owner, owner_gone=gone,
        )  # fmt: skip

    elsewhere = {"sessionId": 10_000}
    answer = ask(source, "rollback", call(elsewhere))
    assert (answer.status, answer.not_found) == (PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE, True)
    for certain in (call(elsewhere, gone=True), call(ours)):
        assert ask(source, "rollback", certain).status is PhaseTwoStatus.ROLLED_BACK
    never = ask(source, "commit", call(elsewhere))
    assert (never.status, never.not_found) == (PhaseTwoStatus.COMMIT_FAILED_RETRYABLE, True)


@pytest.mark.parametrize("database", ["mysql"], indirect=True)
def test_while_its_owner_lives_a_branch_is_never_called_done(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    """MariaDB answers XAER_NOTA to everybody but the connection that prepared."""
    del coordinator
    owner = database.connect()
    cursor = owner.cursor()
    name = f"'h:1:5','3',{0x54444C4B}"
    for statement in (f"XA START {name}", "UPDATE stock SET n = 0", f"XA END {name}",
                      f"XA PREPARE {name}"):  # fmt: skip
        cursor.execute(statement)
    call = BranchCall(
        xid="h:1:5", branch_id=3, mode="XA", resource_id=source.resource_id, phase_one_done=True
    )
    assert ask(source, "commit", call).status is PhaseTwoStatus.COMMIT_FAILED_RETRYABLE
    assert ask(source, "rollback", call).status is PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE
    owner.close()
    assert ask(source, "commit", call).status is PhaseTwoStatus.COMMITTED
    assert count(database) == 0


@SERVERS
def test_the_reconciler_ends_what_is_left_of_ended_transactions_only(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    under_way = prepared_alone(coordinator, source)
    assert source.reconcile() == [], "the coordinator's own is left alone"
    assert ask(source, "status", under_way) is BranchStatus.PREPARED
    coordinator.client.run(lambda client: client.transactions.rollback(under_way.xid))
    assert count(database) == 10

    ended = coordinator.client.run(lambda client: client.transactions.begin())
    coordinator.client.run(lambda client: client.transactions.rollback(ended.xid))
    leave_prepared(database, ended.xid, 4)
    leave_prepared(database, "other-cluster:1:1", 5, key=2)
    (unsettled,) = source.reconcile()
    assert (unsettled.xid, unsettled.branch_id) == ("other-cluster:1:1", 5)
    assert "does not know" in unsettled.why
    assert count(database) == 10
    gone = BranchCall(
        xid="other-cluster:1:1", branch_id=5, mode="XA", resource_id="", owner_gone=True
    )
    assert ask(source, "rollback", gone).status is PhaseTwoStatus.ROLLED_BACK


def leave_prepared(database: Database, xid: str, branch_id: int, key: int = 1) -> None:
    connection = database.connect()
    cursor = connection.cursor()
    change = f"UPDATE stock SET n = 0 WHERE id = {key}"
    if database.dialect == "mysql":
        name = f"'{xid}','{branch_id}',{0x54444C4B}"
        wanted = [f"XA START {name}", change, f"XA END {name}", f"XA PREPARE {name}"]
    else:
        wanted = [change, f"PREPARE TRANSACTION 'tidelock:{branch_id}:{xid}'"]
    for statement in wanted:
        cursor.execute(statement)
    connection.close()


# --- drivers that are awaited


@AWAITING
async def test_awaited_drivers_do_the_same(
    coordinator: Coordinator, database: Database, request: pytest.FixtureRequest
) -> None:
    driver = request.node.callspec.params["database"]
    source = await awaited(database, driver)
    async with tidelock.transaction() as transaction, source.connection() as connection:
        await change(connection)
        await connection.commit() if driver == "asyncmy" else None
    assert transaction.status == "COMMITTED"
    assert await asyncio.to_thread(count, database) == 9

    @tidelock.global_transaction
    async def fail() -> None:
        async with source.connection() as connection:
            await change(connection)
        raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await asyncio.to_thread(count, database) == 9
    assert await source.areconcile() == []
    await asyncio.to_thread(coordinator.assert_clean)


async def change(connection: Any) -> None:
    text = "UPDATE stock SET n = n - 1 WHERE id = 1"
    if hasattr(connection, "cursor") and not hasattr(connection, "execute"):
        async with connection.cursor() as cursor:
            await cursor.execute(text)
    else:
        await connection.execute(text)


@AWAITING
@pytest.mark.parametrize("launches", [True, False], ids=["launcher", "participant"])
async def test_blocks_of_one_task_share_a_branch_and_those_of_two_are_refused(
    coordinator: Coordinator, database: Database, request: pytest.FixtureRequest, launches: bool
) -> None:
    source = await awaited(database, request.node.callspec.params["database"])

    async def work() -> None:
        async with source.connection() as outer:
            await change(outer)
            async with source.connection() as inner:
                await change(inner)
            if launches:
                with pytest.raises(XaMisuseError):
                    await asyncio.create_task(enter(source))

    begun = await source.application.awaiting(lambda client: client.transactions.begin())
    if launches:
        async with tidelock.transaction() as transaction:
            await work()
        xid = transaction.xid
    else:
        xid = begun.xid
        with tidelock.bound(xid):
            await work()
        await source.application.awaiting(lambda client: client.transactions.commit(xid))
    assert await asyncio.to_thread(count, database) == 8
    assert len(await asyncio.to_thread(branches, coordinator, xid)) == 1


@AWAITING
async def test_two_tasks_cannot_begin_the_branch_at_once(
    coordinator: Coordinator, database: Database, request: pytest.FixtureRequest
) -> None:
    source = await awaited(database, request.node.callspec.params["database"])
    async with tidelock.transaction() as transaction:
        ended = await asyncio.gather(enter(source), enter(source), return_exceptions=True)
    assert [type(each) for each in ended] == [type(None), XaMisuseError]
    assert len(await asyncio.to_thread(branches, coordinator, transaction.xid)) == 1


@AWAITING
@pytest.mark.parametrize("opens", [True, False], ids=["late", "done"])
async def test_cancelled_while_it_is_entered_a_block_leaves_nothing_at_work(
    coordinator: Coordinator,
    database: Database,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    opens: bool,
) -> None:
    source = await awaited(database, request.node.callspec.params["database"])
    begun = await source.application.awaiting(lambda client: client.transactions.begin())
    started, goes_on = asyncio.Event(), asyncio.Event()
    start = source.server.start

    async def slowly(*of: Any) -> int:
        started.set()
        await goes_on.wait()
        return await start(*of)

    monkeypatch.setattr(source.server, "start", slowly)
    if opens:
        monkeypatch.setattr("tidelock.transaction.shielding.GRACE_S", 0)
    with tidelock.bound(begun.xid):
        task = asyncio.create_task(enter(source))
    await started.wait()
    task.cancel()
    if opens:
        await asyncio.wait([task])
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    await source.application.awaiting(lambda client: client.transactions.rollback(begun.xid))
    await asyncio.to_thread(coordinator.assert_clean)


async def enter(source: XaSource) -> None:
    async with source.connection():
        pass


async def awaited(database: Database, driver: str) -> XaSource:
    """Return a source whose driver is awaited, over a table of stock."""
    database.sql("CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL)")
    database.sql("INSERT INTO stock VALUES (1, 10)")
    source = XaSource(lambda: database.open(driver))
    await source.aattach()
    return source


@SERVERS
def test_the_drivers_own_block_does_not_end_the_branch(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    with tidelock.transaction() as transaction, source.connection() as connection:
        with connection:
            take(connection)
        assert count(database) == 10
        take(connection)
    assert transaction.status == "COMMITTED"
    assert count(database) == 8
    assert branches(coordinator, transaction.xid) == ["PHASE_TWO_COMMITTED"]


@SERVERS
def test_sql_that_ends_the_branch_is_never_taken_for_work_that_only_read(
    coordinator: Coordinator, source: XaSource
) -> None:
    @tidelock.global_transaction
    def purchase() -> None:
        with source.connection() as connection, connection.cursor() as cursor:
            take(connection)
            cursor.execute("COMMIT")

    with pytest.raises(Exception, match=r"leave COMMIT and ROLLBACK to tidelock|XAER_RMFAIL"):
        purchase()
    coordinator.wait_until(lambda: coordinator.transactions()[0].status == "ROLLED_BACK")
    (branch,) = coordinator.transaction(coordinator.transactions()[0].xid).branches
    assert branch.status != "PHASE_ONE_READ_ONLY"


@SERVERS
def test_a_branch_that_cannot_be_started_is_reported(
    coordinator: Coordinator, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = XaSource(database.connect)
    source.attach()

    async def refuse(*_: object) -> int:
        raise LookupError("no more branches")

    monkeypatch.setattr(source.server, "start", refuse)

    @tidelock.global_transaction
    def purchase() -> None:
        with pytest.raises(LookupError), source.connection():
            pytest.fail("it began")

    with pytest.raises(tidelock.TransactionRolledBackError, match=r"LookupError|reported"):
        purchase()
    coordinator.assert_clean()


@SERVERS
def test_a_connection_that_cannot_be_closed_holds_nothing_up(
    coordinator: Coordinator,
    database: Database,
    source: XaSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(connection: Any) -> None:
        connection.close()
        raise LookupError("the network is away")

    monkeypatch.setattr("tidelock.xa.source.closed", fail)

    @tidelock.global_transaction
    def purchase() -> None:
        with source.connection() as connection:
            take(connection)

    with pytest.raises(LookupError, match="network"):
        purchase()
    coordinator.assert_clean()
    assert count(database) == 10


def test_sqlite_prepares_nothing(tmp_path: Any) -> None:
    source = XaSource(lambda: sqlite3.connect(tmp_path / "a.db"))
    with pytest.raises(DatabaseUnsuitableError, match="use AT"):
        source.attach()


@SERVERS
def test_an_unheard_report_rolls_back(
    coordinator: Coordinator, database: Database, source: XaSource
) -> None:
    with (
        coordinator.failing("report"),
        pytest.raises(tidelock.TidelockError),
        tidelock.transaction() as transaction,
        source.connection() as connection,
    ):
        take(connection)
    coordinator.wait_until(lambda: coordinator.transaction(transaction.xid).has_ended)
    assert count(database) == 10


@SERVERS
def test_decorated_functions_take_part(database: Database, source: XaSource) -> None:
    @tidelock.global_transaction
    def purchase() -> None:
        with source.connection() as connection:
            take(connection)

    purchase()
    assert count(database) == 9
