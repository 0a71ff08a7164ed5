"""What the coordinator asks is done once at a time, within bounds, and always answered."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from tidelock.rm import dispatch
from tidelock.rm.dispatch import CALLS_AT_ONCE, Answer, Dispatcher, Question
from tidelock.rm.messages import CallKind, Cleaning
from tidelock.rm.resource import (
    BranchCall,
    BranchStatus,
    Mode,
    PhaseTwoResult,
    PhaseTwoStatus,
)
from tidelock.rm.roster import Roster

WITHIN_S = 20.0

COMMITTED = PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)


async def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends_at
        await asyncio.sleep(0)


class Database:
    """A resource whose calls wait until they are let go."""

    def __init__(self, resource_id: str = "db", mode: Mode = "AT", *, waits: bool = False) -> None:
        self.resource_id = resource_id
        self.mode: Mode = mode
        self.begun: list[tuple[str, str]] = []
        self.cleaned: list[list[str]] = []
        self.go = asyncio.Event()
        self.raises: Exception | None = None
        self.result: object = COMMITTED
        if not waits:
            self.go.set()

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        self.begun.append(("commit", call.xid))
        await self.go.wait()
        if self.raises is not None:
            raise self.raises
        return self.result  # type: ignore[return-value]  # some tests want it wrong

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        self.begun.append(("rollback", call.xid))
        await self.go.wait()
        return PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK)

    async def status(self, call: BranchCall) -> BranchStatus:
        self.begun.append(("status", call.xid))
        await self.go.wait()
        return BranchStatus.PREPARED

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        self.cleaned.append([call.xid for call in ended])
        await self.go.wait()


class Sweeper(Database):
    """One that sweeps as well."""

    async def sweep(self) -> None:
        self.begun.append(("sweep", self.resource_id))
        await self.go.wait()


class Asking:
    """A coordinator."""

    def __init__(self, *resources: Database) -> None:
        self.roster = Roster()
        for resource in resources:
            self.roster.attach(resource)
        self.dispatcher = Dispatcher(self.roster)

    def ask(
        self,
        xid: str = "x",
        kind: CallKind = CallKind.COMMIT,
        *,
        epoch: int = 1,
        resource_id: str = "db",
        mode: str = "AT",
        also: Sequence[str] = (),
    ) -> asyncio.Future[Answer]:
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        async def answer(given: Answer) -> None:
            answered.set_result(given)

        calls = tuple(
            BranchCall(xid=each, branch_id=1, mode="AT", resource_id=resource_id, epoch=epoch)
            for each in (xid, *also)
            if kind is not CallKind.SWEEP
        )
        self.dispatcher.ask(
            Question(kind=kind, mode=mode, resource_id=resource_id, epoch=epoch, calls=calls),
            answer,
        )
        return answered


@pytest.fixture
async def waiting() -> AsyncIterator[tuple[Asking, Database]]:
    database = Database(waits=True)
    asking = Asking(database)
    yield asking, database
    database.go.set()
    await asking.dispatcher.abandon()


async def answer_of(asked: asyncio.Future[Answer]) -> Answer:
    async with asyncio.timeout(WITHIN_S):
        return await asked


async def test_each_question_is_answered_with_what_the_resource_says() -> None:
    asking = Asking(Sweeper())
    said = [(await answer_of(asking.ask(kind=kind))).status for kind in CallKind]
    assert said == [
        PhaseTwoStatus.COMMITTED,
        PhaseTwoStatus.ROLLED_BACK,
        BranchStatus.PREPARED,
        Cleaning.CLEANED,
        Cleaning.CLEANED,
    ]
    assert asking.dispatcher.results[CallKind.COMMIT, PhaseTwoStatus.COMMITTED] == 1
    assert (asking.dispatcher.running, asking.dispatcher.waiting) == (0, 0)
    assert asking.dispatcher.oldest_ms == 0


async def test_a_clean_tells_of_all_its_branches_at_once() -> None:
    database = Database()
    asking = Asking(database)
    await answer_of(asking.ask("a", CallKind.CLEAN, also=["b", "c"]))
    assert database.cleaned == [["a", "b", "c"]]


async def test_a_sweep_is_of_one_resource_and_joined_when_it_is_asked_for_again() -> None:
    one, other = Sweeper("a", waits=True), Sweeper("b")
    asking = Asking(one, other)
    asked = [asking.ask(kind=CallKind.SWEEP, resource_id="a") for _ in range(2)]
    swept = await answer_of(asking.ask(kind=CallKind.SWEEP, resource_id="b"))
    assert swept.status is Cleaning.CLEANED
    one.go.set()
    assert {(await answer_of(each)).status for each in asked} == {Cleaning.CLEANED}
    assert one.begun == [("sweep", "a")]


async def test_what_cannot_sweep_says_so() -> None:
    answer = await answer_of(Asking(Database()).ask(kind=CallKind.SWEEP))
    assert answer.status is Cleaning.CLEAN_FAILED
    assert answer.detail == "Database has no sweep"


async def test_a_question_that_comes_again_meanwhile_gets_the_same_answer(
    waiting: tuple[Asking, Database],
) -> None:
    asking, database = waiting
    asked = [asking.ask(), asking.ask(), asking.ask(epoch=2)]
    await until(lambda: database.begun != [])
    asked.append(asking.ask(epoch=2))
    database.go.set()
    answers = [await answer_of(each) for each in asked]
    assert database.begun == [("commit", "x")]
    assert {each.status for each in answers} == {PhaseTwoStatus.COMMITTED}
    assert asking.dispatcher.counts["repeated"] == 3


async def test_a_branch_is_asked_one_thing_at_a_time_and_others_meanwhile(
    waiting: tuple[Asking, Database],
) -> None:
    asking, database = waiting
    asked = [asking.ask(kind=CallKind.STATUS), asking.ask(kind=CallKind.ROLLBACK), asking.ask("y")]
    await until(lambda: len(database.begun) == 2)
    assert asking.dispatcher.waiting == 1
    assert database.begun == [("status", "x"), ("commit", "y")]
    database.go.set()
    for each in asked:
        await answer_of(each)
    assert database.begun == [("status", "x"), ("commit", "y"), ("rollback", "x")]


async def test_a_resource_that_hangs_holds_up_no_other() -> None:
    hanging, well = Database("a", waits=True), Database("b")
    asking = Asking(hanging, well)
    for number in range(CALLS_AT_ONCE + 3):
        asking.ask(f"x{number}", resource_id="a")
    assert (await answer_of(asking.ask(resource_id="b"))).status is PhaseTwoStatus.COMMITTED
    assert len(hanging.begun) == asking.dispatcher.running == CALLS_AT_ONCE
    assert asking.dispatcher.waiting == 3
    hanging.go.set()
    await until(lambda: len(hanging.begun) == CALLS_AT_ONCE + 3)


async def test_too_many_questions_are_answered_not_now(
    waiting: tuple[Asking, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "GREATEST_WAITING", 2)
    asking, database = waiting
    for number in range(CALLS_AT_ONCE + 2):
        asking.ask(f"x{number}")
    await until(lambda: len(database.begun) == CALLS_AT_ONCE)
    refused = await answer_of(asking.ask("one more"))
    assert refused.status is PhaseTwoStatus.COMMIT_FAILED_RETRYABLE
    assert "wait already" in refused.detail


async def test_an_older_leader_than_was_seen_is_not_obeyed() -> None:
    database = Database()
    asking = Asking(database)
    await answer_of(asking.ask(epoch=5))
    stale = await answer_of(asking.ask("y", CallKind.ROLLBACK, epoch=4))
    assert stale.status is PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE
    assert database.begun == [("commit", "x")]
    asking.dispatcher.forget_epoch()
    assert (await answer_of(asking.ask("z", epoch=1))).status is PhaseTwoStatus.COMMITTED


async def test_what_waits_is_not_done_for_an_older_leader_once_a_newer_one_asks(
    waiting: tuple[Asking, Database],
) -> None:
    asking, database = waiting
    asking.dispatcher.hold()
    older, joined = asking.ask("a", epoch=1), asking.ask("b", epoch=1)
    newer = asking.ask("b", epoch=2)
    asking.dispatcher.release()
    database.go.set()
    assert (await answer_of(older)).status is PhaseTwoStatus.COMMIT_FAILED_RETRYABLE
    assert (await answer_of(joined)).status is PhaseTwoStatus.COMMITTED
    assert (await answer_of(newer)).status is PhaseTwoStatus.COMMITTED
    assert database.begun == [("commit", "b")]


async def test_exceptions_are_answered_retryable_and_told_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = Database()
    database.raises = ConnectionError(
        "no way to mysql://root:hunter2@db/x?password=hunter3\n[parameters: ('account 7',)]"
    )
    asking = Asking(database)
    with caplog.at_level(logging.DEBUG):
        answer = await answer_of(asking.ask())
    assert answer.status is PhaseTwoStatus.COMMIT_FAILED_RETRYABLE
    assert answer.detail == "ConnectionError: no way to mysql://***@db/x?password=***"
    logged = caplog.text
    assert "test_rm_dispatch.py" in logged
    for secret in ("hunter2", "hunter3", "account 7"):
        assert secret not in logged
    assert asking.dispatcher.counts["errors"] == 1
    # The lane goes on.
    database.raises = None
    assert (await answer_of(asking.ask())).status is PhaseTwoStatus.COMMITTED


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "COMMITTED",
        BranchStatus.COMMITTED,
        PhaseTwoResult(status=PhaseTwoStatus.ROLLED_BACK),
        Answer(status=Cleaning.CLEANED),
    ],
)
async def test_an_answer_to_something_else_does_not_leave_the_process(wrong: object) -> None:
    database = Database()
    database.result = wrong
    answer = await answer_of(Asking(database).ask())
    assert answer.status is PhaseTwoStatus.COMMIT_FAILED_RETRYABLE
    assert answer.detail.startswith("TypeError: Database answers branch-commit")


async def test_a_long_detail_is_shortened() -> None:
    database = Database()
    database.result = PhaseTwoResult(
        status=PhaseTwoStatus.COMMIT_FAILED_UNRETRYABLE, detail="é" * 5_000, not_found=True
    )
    answer = await answer_of(Asking(database).ask())
    assert (len(answer.detail), answer.not_found) == (1_000, True)


@pytest.mark.parametrize(("mode", "resource_id"), [("XA", "db"), ("AT", "db2"), ("LATER", "db")])
async def test_a_resource_that_is_not_here_is_asked_later(mode: str, resource_id: str) -> None:
    asking = Asking(Database())
    answer = await answer_of(asking.ask(mode=mode, resource_id=resource_id))
    assert answer.status is PhaseTwoStatus.COMMIT_FAILED_RETRYABLE
    assert answer.detail == f"this process has no {mode} {resource_id}"


async def test_nothing_begins_while_it_is_held() -> None:
    database = Database()
    asking = Asking(database)
    asking.dispatcher.hold()
    asked = asking.ask()
    for _ in range(10):
        await asyncio.sleep(0)
    assert database.begun == []
    asking.dispatcher.release()
    assert (await answer_of(asked)).status is PhaseTwoStatus.COMMITTED


async def test_draining_ends_what_is_under_way_and_refuses_the_rest(
    waiting: tuple[Asking, Database],
) -> None:
    asking, database = waiting
    running = asking.ask()
    behind = asking.ask(kind=CallKind.STATUS)
    await until(lambda: len(database.begun) == 1)
    others = [asking.ask(f"x{number}") for number in range(CALLS_AT_ONCE)]
    draining = asyncio.create_task(asking.dispatcher.drain(WITHIN_S))
    assert (await answer_of(behind)).status is BranchStatus.UNKNOWN
    refused = await answer_of(others[-1])
    assert refused.detail == "the process ends"
    assert (await answer_of(asking.ask("late"))).detail == "the process ends"
    assert not draining.done()
    database.go.set()
    await draining
    assert (await answer_of(running)).status is PhaseTwoStatus.COMMITTED
    assert (asking.dispatcher.running, asking.dispatcher.waiting) == (0, 0)


async def test_draining_does_not_wait_for_what_takes_too_long(
    waiting: tuple[Asking, Database],
) -> None:
    asking, database = waiting
    asked = asking.ask()
    await until(lambda: len(database.begun) == 1)
    await asking.dispatcher.drain(0.01)
    assert not asked.done()
    assert asking.dispatcher.running == 0
