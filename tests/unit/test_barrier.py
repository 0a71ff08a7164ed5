"""Which branch a request is about, whether the cluster signed it, and the barrier in SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from node.delivery.http import signature
from tidelock.barrier import (
    BarrierError,
    Branch,
    BranchBarrier,
    BranchRequestError,
    Outcome,
    barrier_ddl,
)
from tidelock.barrier.barrier import forget
from tidelock.barrier.outcomes import Fate
from tidelock.barrier.signatures import SignatureError, sign, verify
from tidelock.driving import drive
from tidelock.sql.drivers import session_of

OURS = {
    "x-tx-xid": "h:1:1",
    "Tidelock-Branch-Id": "7",
    "TIDELOCK-OPERATION": "FORWARD",
    "Tidelock-Epoch": "3",
}
DTMS = {"gid": "g", "trans_type": "tcc", "branch_id": "01", "op": "try"}


# The request


def test_a_branch_is_read_from_the_headers_of_the_cluster() -> None:
    assert Branch.of_request({}, OURS) == Branch(
        trans_type="tidelock", gid="h:1:1", branch_id="7", op="forward", epoch=3
    )


def test_a_branch_is_read_from_the_query_of_dtm() -> None:
    assert Branch.of_request(DTMS, {}) == Branch(
        trans_type="tcc", gid="g", branch_id="01", op="try"
    )


def test_the_question_of_either_protocol_is_about_the_senders_own_work() -> None:
    theirs = Branch.of_request(
        {"gid": "g", "trans_type": "msg", "branch_id": "00", "op": "msg"}, {}
    )
    ours = Branch.of_request({}, {"X-Tx-Xid": "g", "Tidelock-Operation": "QUERY"})
    assert ours == theirs
    assert ours.is_query
    assert not Branch.of_request({}, OURS).is_query


@pytest.mark.parametrize(
    ("trans_type", "op", "origin"),
    [
        ("tcc", "try", ""),
        ("tcc", "confirm", ""),
        ("tcc", "cancel", "try"),
        ("saga", "action", ""),
        ("saga", "compensate", "action"),
        ("xa", "rollback", "action"),
        ("tidelock", "forward", ""),
        ("tidelock", "commit", ""),
        ("tidelock", "rollback", "forward"),
    ],
)
def test_an_operation_knows_what_it_undoes(trans_type: str, op: str, origin: str) -> None:
    assert Branch(trans_type=trans_type, gid="g", branch_id="1", op=op).origin == origin


@pytest.mark.parametrize(
    ("query", "headers", "said"),
    [
        ({}, {}, "neither the header Tidelock-Operation"),
        ({"gid": "g", "op": "try"}, {}, "trans_type, branch_id"),
        ({**DTMS, "gid": "g g"}, {}, "gid is 1 to 128"),
        ({**DTMS, "gid": "g" * 129}, {}, "gid is 1 to 128"),
        ({**DTMS, "op": "t" * 46}, {}, "op is 1 to 45"),
        ({}, {**OURS, "TIDELOCK-OPERATION": "FORGET"}, "is one of FORWARD"),
        ({}, {**OURS, "Tidelock-Epoch": "x"}, "is a number"),
        ({}, {"Tidelock-Operation": "FORWARD", "X-Tx-Xid": "x"}, "Tidelock-Branch-Id is missing"),
        (DTMS, {"Tidelock-Operation": "FORWARD"}, "X-Tx-Xid is missing"),
    ],
)
def test_a_request_that_names_no_branch_is_refused(
    query: dict[str, str], headers: dict[str, str], said: str
) -> None:
    with pytest.raises(BranchRequestError, match=said):
        Branch.of_request(query, headers)


# Signatures


def test_what_the_cluster_signed_is_genuine() -> None:
    verify(sign(b"{}", b"key", 1_000), b"{}", b"key", 1_299.5)
    assert sign(b"{}", b"key", 1_700_000_000) == signature(b"key", 1_700_000_000, b"{}")


@pytest.mark.parametrize(
    ("header", "body", "key", "said"),
    [
        (None, b"{}", b"key", "missing"),
        ("t=1000", b"{}", b"key", "malformed"),
        ("t=1000,v1=" + "0" * 64, b"{}", b"key", "not of this body"),
        (sign(b"{}", b"key", 1_000), b"{ }", b"key", "not of this body"),
        (sign(b"{}", b"key", 1_000), b"{}", b"other", "not of this body"),
        (sign(b"{}", b"key", 699), b"{}", b"key", "301 s off"),
        (sign(b"{}", b"key", 1_301), b"{}", b"key", "301 s off"),
        (sign(b"{}", b"key", 1_000).replace("t=1000", "t=1001"), b"{}", b"key", "not of this"),
    ],
)
def test_what_it_did_not_sign_is_refused(
    header: str | None, body: bytes, key: bytes, said: str
) -> None:
    with pytest.raises(SignatureError, match=said):
        verify(header, body, key, 1_000)


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(ValueError, match="empty"):
        verify(sign(b"", b"", 1), b"", b"", 1)


# The barrier


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    made = sqlite3.connect(tmp_path / "a.db")
    made.execute(barrier_ddl("sqlite"))
    made.execute("CREATE TABLE account (balance INTEGER NOT NULL)")
    made.execute("INSERT INTO account VALUES (100)")
    made.commit()
    yield made
    made.close()


def barrier(op: str, branch_id: str = "01") -> BranchBarrier:
    return BranchBarrier(Branch(trans_type="tcc", gid="g", branch_id=branch_id, op=op))


def take(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE account SET balance = balance - 30")


def give(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE account SET balance = balance + 30")


def balance(connection: sqlite3.Connection) -> int:
    ((found,),) = connection.execute("SELECT balance FROM account").fetchall()
    return int(found)


def test_a_call_that_comes_again_is_done_once(connection: sqlite3.Connection) -> None:
    assert barrier("try").run(connection, take) is Outcome.FIRST
    assert barrier("try").run(connection, take) is Outcome.REPEATED
    assert barrier("confirm").run(connection, lambda _: None) is Outcome.FIRST
    assert barrier("cancel", "02").run(connection, give) is Outcome.EMPTY
    assert balance(connection) == 70


def test_a_cancel_undoes_its_try_once(connection: sqlite3.Connection) -> None:
    barrier("try").run(connection, take)
    assert barrier("cancel").run(connection, give) is Outcome.FIRST
    assert barrier("cancel").run(connection, give) is Outcome.REPEATED
    assert balance(connection) == 100


def test_a_cancel_before_its_try_does_nothing_and_keeps_the_try_out(
    connection: sqlite3.Connection,
) -> None:
    assert barrier("cancel").run(connection, give) is Outcome.EMPTY
    late = barrier("try").run(connection, take)
    assert (late, late.status) == (Outcome.LATE, 409)
    again = barrier("cancel").run(connection, give)
    assert (again, again.status) == (Outcome.REPEATED, 200)
    assert balance(connection) == 100


def test_the_rows_go_with_the_business_when_it_fails(connection: sqlite3.Connection) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        take(connection)
        raise LookupError("broken")

    with pytest.raises(LookupError):
        barrier("try").run(connection, fail)
    assert not connection.in_transaction
    assert barrier("try").run(connection, take) is Outcome.FIRST
    assert balance(connection) == 70


def test_several_pieces_of_one_branch_pass_the_barrier_each(
    connection: sqlite3.Connection,
) -> None:
    for expected in (Outcome.FIRST, Outcome.REPEATED):
        one = barrier("try")
        assert one.run(connection, take) is expected
        assert one.run(connection, take) is expected
    assert balance(connection) == 40


def test_the_barrier_is_passed_within_a_transaction_of_the_callers_own(
    connection: sqlite3.Connection,
) -> None:
    take(connection)
    with pytest.raises(BarrierError, match="under way"):
        barrier("try").run(connection, take)
    assert drive(barrier("try").enter(session_of(connection))) is Outcome.FIRST
    connection.rollback()
    assert drive(barrier("try").enter(session_of(connection))) is Outcome.FIRST


def test_an_autocommitting_connection_gets_a_transaction(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db", isolation_level=None) as connection:
        connection.execute(barrier_ddl("sqlite"))
        assert barrier("try").run(connection, lambda _: None) is Outcome.FIRST
        assert not connection.in_transaction
        assert barrier("try").run(connection, lambda _: None) is Outcome.REPEATED
    connection.close()


def test_who_asks_about_a_message_hears_what_became_of_its_work(
    connection: sqlite3.Connection,
) -> None:
    done, given_up = BranchBarrier.of_message("h:1:1"), BranchBarrier.of_message("h:1:2")
    assert done.run(connection, take) is Outcome.FIRST
    asked = BranchBarrier.of_request({}, {"X-Tx-Xid": "h:1:1", "Tidelock-Operation": "QUERY"})
    for _ in range(2):
        assert asked.query_prepared(connection) is Fate.DONE
        assert given_up.query_prepared(connection) is Fate.GIVEN_UP
    with pytest.raises(BarrierError, match="given up"):
        given_up.run(connection, take)
    with pytest.raises(BarrierError, match="done already"):
        BranchBarrier.of_message("h:1:1").run(connection, take)
    assert balance(connection) == 70
    assert (Fate.DONE.status, Fate.GIVEN_UP.status) == (200, 409)


def test_rows_of_ended_transactions_are_forgotten(connection: sqlite3.Connection) -> None:
    barrier("try").run(connection, take)
    gids = [*(f"g{n}" for n in range(1_200)), "g"]
    assert drive(forget(session_of(connection), gids)) == 1
    connection.commit()
    assert barrier("try").run(connection, take) is Outcome.FIRST


def test_a_name_of_a_table_may_have_its_schema_and_nothing_else() -> None:
    assert "`dtm_barrier`.`barrier`" in barrier_ddl("mysql", "dtm_barrier.barrier")
    for name in ["", "a.b.c", "a b", "a;b", "a`b", "1a"]:
        with pytest.raises(ValueError, match="no name of a table"):
            barrier_ddl("mysql", name)
    with pytest.raises(ValueError, match="no dialect"):
        barrier_ddl("oracle")


async def test_asynchronous_connections_pass_the_same_barrier(tmp_path: Path) -> None:
    async def work(connection: Any) -> None:
        await connection.execute("INSERT INTO done VALUES (1)")

    async with aiosqlite.connect(tmp_path / "a.db") as connection:
        await connection.execute(barrier_ddl("sqlite"))
        await connection.execute("CREATE TABLE done (n INTEGER)")
        await connection.commit()
        outcomes = [await barrier(op).run_async(connection, work) for op in ("try", "try")]
        assert outcomes == [Outcome.FIRST, Outcome.REPEATED]
        message = BranchBarrier.of_message("h:1:1")
        assert await message.query_prepared_async(connection) is Fate.GIVEN_UP
        found = await (await connection.execute("SELECT count(*) FROM done")).fetchone()
        assert found == (1,)
