"""Transactions under anything that may be proposed, in any order: nothing breaks, all can end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from statemachine import keys
from statemachine.commands import (
    AbandonBranch,
    AbortDtm,
    AnyCommand,
    BeginGlobal,
    CancelWait,
    DecideGlobal,
    DeleteSubscriber,
    DtmTransaction,
    FireTimers,
    HastenAllDtm,
    HastenDtm,
    LockRows,
    OperateGlobal,
    PassFence,
    PrepareDtm,
    PrepareMessage,
    PutSagaDefinition,
    PutSubscriber,
    RecordDtmProgress,
    RegisterBranch,
    RegisterDtmBranch,
    ReportBranch,
    ReportCalls,
    ReportedCall,
    RunGlobal,
    StartSaga,
    Step,
    StopDtm,
    SubmitDtm,
    UnlockRows,
)
from statemachine.outcomes import Position
from statemachine.state import load_state
from statemachine.timers import TimerKind, due_timers
from statemachine.transactions.dtm_options import DtmOptions, encode_options
from statemachine.transactions.planning import Operation, next_calls
from statemachine.transactions.row_locks import RowLock
from statemachine.transactions.rows import Calls, Failure, RetryRule, get_branches
from statemachine.transactions.statuses import ENDED, FAILED, GlobalStatus
from tests.statemachine.building import Log
from tests.statemachine.transaction_invariants import all_globals, assert_transactions_intact

SEEDS = range(10)
COMMANDS = 250
OPTIONS = encode_options(DtmOptions(gid="g"))
DEFINITION = json.dumps(
    {
        "Name": "d",
        "StartState": "A",
        "States": {
            "A": {
                "Type": "ServiceTask",
                "ServiceName": "http://p/",
                "CompensateState": "U",
                "Next": "C",
            },
            "U": {"Type": "ServiceTask", "ServiceName": "http://p/"},
            "C": {
                "Type": "Choice",
                "Choices": [{"Expression": "[go] == true", "Next": "E"}],
                "Default": "F",
            },
            "E": {"Type": "Succeed"},
            "F": {"Type": "CompensationTrigger", "Next": "X"},
            "X": {"Type": "Fail", "ErrorCode": "E", "Message": "m"},
        },
    }
).encode()

XIDS = ("a", "b", "c", "d", "")
URLS = ("", "http://p/", None)
VERDICTS = ("DONE", "DONE", "DONE", "FAILED", "RETRY", "RETRY", "ONGOING", "NOTA", "ODD", "")


class Chaos:
    """Draws commands, sensible ones and others."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.log = Log()

    @property
    def xid(self) -> str:
        known = [*all_globals(self.log.store), *XIDS, "unknown", "no xid", "x" * 70]
        return self.chance.choice(known)

    @property
    def branch_id(self) -> int:
        last = load_state(self.log.store).last_branch
        return int(self.chance.choice([0, -1, 2**63, *range(1, last + 2)]))

    def locks(self) -> tuple[RowLock, ...]:
        draw = self.chance
        return tuple(
            RowLock(draw.choice(["db", "r" * 300]), "t", (draw.randrange(4),), draw.random() < 0.7)
            for _ in range(draw.choice([0, 0, 1, 1, 2, 5]))
        )

    def wait_ms(self) -> int:
        return self.chance.choice([0, 0, 50, 5_000, -1])

    def calls(self) -> Calls:
        return Calls(*(self.chance.choice(URLS) for _ in range(3)))

    def position(self) -> Position:
        return Position(self.chance.randrange(max(1, len(self.log.entries)) + 1), 0)

    def begin(self) -> AnyCommand:
        timeout_ms = self.chance.choice([0, 100, 60_000])
        return BeginGlobal(xid=self.xid, prefix="n1", name="", timeout_ms=timeout_ms, mode="AT")

    def register(self) -> AnyCommand:
        return RegisterBranch(
            xid=self.xid,
            mode=self.chance.choice(["AT", "TCC", "XA", "SAGA", "TXC", "LCN", "MESSAGE", ""]),
            resource_id="db",
            locks=self.locks(),
            wait_ms=self.wait_ms(),
            application_id="",
            unit_id="",
            session_id=0,
            application_data=b"",
            calls=self.calls(),
        )

    def report(self) -> AnyCommand:
        failed = self.chance.random() < 0.3
        said = ["PHASE_ONE_DONE"] * 4 + [
            "PHASE_ONE_FAILED", "PHASE_ONE_READ_ONLY", "WITHDRAWN", "REGISTERED", "",
        ]  # fmt: skip
        return ReportBranch(
            xid=self.xid,
            branch_id=self.branch_id,
            status=self.chance.choice(said),
            application_data=self.chance.choice([None, b"1"]),
            failure=Failure("t", "m", 0) if failed else None,
        )

    def decide(self) -> AnyCommand:
        return DecideGlobal(
            xid=self.xid,
            commit=self.chance.random() < 0.7,
            reason="",
            wait_ms=self.wait_ms(),
            reports_expected=self.chance.random() < 0.8,
        )

    def run(self) -> AnyCommand:
        draw = self.chance
        steps = tuple(
            Step(
                name=f"s{number}",
                calls=self.calls(),
                payload=b"",
                depends_on=tuple(
                    sorted(draw.sample(range(-1, number + 1), draw.choice([0, 0, min(1, number)])))
                ),
                timeout_ms=0,
                retry=RetryRule(limit=draw.choice([-1, 0, 2])),
            )
            for number in range(draw.choice([0, 1, 2, 4]))
        )
        return RunGlobal(
            xid=self.xid,
            prefix="n1",
            name="",
            program=draw.choice(["SAGA", "SAGA", "TCC", "CLIENT", "ODD", ""]),
            steps=steps,
            timeout_ms=draw.choice([0, 100, 60_000]),
            wait_ms=self.wait_ms(),
            in_order=draw.random() < 0.3,
            compensate_failed=draw.random() < 0.3,
            forward_recovery=draw.random() < 0.2,
        )

    def told(self) -> AnyCommand:
        """Report what is due, and what is not."""
        draw, store = self.chance, self.log.store
        made: list[ReportedCall] = []
        for xid, row in all_globals(store).items():
            for call in next_calls(row, get_branches(store, xid)):
                if draw.random() < 0.5:
                    made.append(self.reported(xid, call.branch.branch_id, call.operation))
        made.append(self.reported(self.xid, self.branch_id, draw.choice([*Operation, "ODD"])))
        draw.shuffle(made)
        return ReportCalls(epoch=draw.choice([1, 1, 1, 1, 0, 2]), calls=tuple(made[:6]))

    def reported(self, xid: str, branch_id: int, operation: str) -> ReportedCall:
        draw = self.chance
        return ReportedCall(
            xid=xid,
            branch_id=branch_id,
            operation=operation,
            verdict=draw.choice(VERDICTS),
            result=draw.choice([b"", b"{}"]),
            failure_type="t",
            failure_message="m",
            jitter_permille=draw.choice([0, 500, -5, 5_000]),
            attempts=draw.choice([-1, -1, 0, 1]),
        )

    def operate(self) -> AnyCommand:
        actions = [
            "RETRY_NOW", "STOP_RETRY", "START_RETRY",
            "FORCE_COMMIT", "FORCE_ROLLBACK", "FORGET", "",
        ]  # fmt: skip
        action = self.chance.choice(actions)
        return OperateGlobal(xid=self.xid, action=action, reason="", principal="")

    def lock(self) -> AnyCommand:
        return LockRows(
            xid=self.xid, branch_id=self.branch_id, locks=self.locks(), wait_ms=self.wait_ms()
        )

    def unlock(self) -> AnyCommand:
        return UnlockRows(xid=self.xid, branch_id=self.branch_id, locks=self.locks())

    def fence(self) -> AnyCommand:
        return PassFence(
            xid=self.xid,
            branch_id=self.branch_id,
            step=self.chance.choice(["TRY", "CONFIRM", "CANCEL", "ODD"]),
            phase=self.chance.choice(["ENTER", "DONE", ""]),
        )

    def abandon(self) -> AnyCommand:
        return AbandonBranch(xid=self.xid, registration=self.position())

    def cancel(self) -> AnyCommand:
        return CancelWait(ticket=self.position())

    def steps(self, *, url: str = "http://p/") -> tuple[Step, ...]:
        return tuple(
            Step(
                name=f"{number:02}",
                calls=Calls(
                    self.chance.choice([url, "", "topic://t"]),
                    self.chance.choice(URLS),
                    self.chance.choice(URLS),
                ),
                payload=b"{}",
                depends_on=(),
                timeout_ms=0,
                retry=RetryRule(limit=self.chance.choice([-1, 1])),
            )
            for number in range(1, self.chance.choice([1, 2, 3]))
        )

    def prepare(self) -> AnyCommand:
        return PrepareMessage(
            xid=self.xid,
            prefix="n1",
            name="",
            query=self.chance.choice(["http://p/", ""]),
            steps=self.steps(),
            delay_ms=self.chance.choice([0, 100]),
            query_after_ms=self.chance.choice([0, 100]),
        )

    def subscribe(self) -> AnyCommand:
        name = self.chance.choice(["s1", "s2"])
        if self.chance.random() < 0.3:
            return DeleteSubscriber(topic="t", name=name)
        return PutSubscriber(topic="t", name=name, url="http://p/", remark="")

    def dtm_transaction(self) -> DtmTransaction:
        draw = self.chance
        return DtmTransaction(
            xid=self.xid,
            trans_type=draw.choice(["saga", "tcc", "xa", "msg", "workflow", "odd"]),
            name="",
            steps=self.steps(),
            timeout_ms=draw.choice([0, 100, 60_000]),
            delay_ms=draw.choice([0, 100]),
            options=draw.choice([OPTIONS, b"", b"odd"]),
        )

    def dtm(self) -> AnyCommand:
        draw = self.chance
        kinds: list[AnyCommand] = [
            PrepareDtm(transaction=self.dtm_transaction(), in_any_status=draw.random() < 0.5),
            SubmitDtm(
                transaction=self.dtm_transaction(),
                wait_ms=self.wait_ms(),
                ended_as=draw.choice(["", "", "succeed", "failed", "odd"]),
                reason="",
            ),
            AbortDtm(xid=self.xid, reason=""),
            StopDtm(xid=self.xid),
            HastenDtm(xid=self.xid),
            HastenAllDtm(later_than_ms=draw.choice([-1, 0, 600]), limit=draw.choice([0, 2])),
            RegisterDtmBranch(
                xid=self.xid,
                branch_id=draw.choice(["01", "02", "x"]),
                commit=draw.choice(["http://p/", ""]),
                rollback=draw.choice(["http://p/", ""]),
                payload=b"",
            ),
            RecordDtmProgress(
                xid=self.xid,
                branch_id=draw.choice(["01", "02"]),
                op="action",
                status=draw.choice(["succeed", "failed", "odd"]),
                data=b"1",
            ),
        ]
        return draw.choice(kinds)

    def follow(self) -> AnyCommand:
        draw = self.chance
        if draw.random() < 0.4:
            return PutSagaDefinition(name="d", document=draw.choice([DEFINITION, b"{}", b"odd"]))
        return StartSaga(
            xid=self.xid,
            prefix="n1",
            name="",
            definition=draw.choice(["d", "d", "none"]),
            input=draw.choice([b"{}", b'{"go": true}', b"odd"]),
            timeout_ms=draw.choice([0, 100]),
            wait_ms=self.wait_ms(),
            forward_recovery=draw.random() < 0.2,
        )

    def fire(self) -> AnyCommand:
        self.log.wait(self.chance.choice([0, 10, 200, 6_000]))
        return FireTimers(timers=due_timers(self.log.store, self.log.elapsed_ms))

    def step(self) -> None:
        kinds: list[tuple[Callable[[], AnyCommand], int]] = [
            (self.begin, 3), (self.register, 6), (self.report, 6), (self.decide, 4), (self.run, 2),
            (self.told, 5), (self.operate, 2), (self.lock, 3), (self.unlock, 2), (self.fence, 2),
            (self.abandon, 2), (self.cancel, 2), (self.fire, 3), (self.prepare, 1),
            (self.subscribe, 1), (self.dtm, 4), (self.follow, 2),
        ]  # fmt: skip
        makes = self.chance.choices(
            [make for make, _ in kinds],
            [weight for _, weight in kinds],
            k=self.chance.choice([1, 1, 3]),
        )
        self.log.send(*(make() for make in makes))

    def settle(self) -> None:
        """Let everybody answer, decide what is undecided, and help what is stuck."""
        log = self.log
        for _ in range(40):
            for xid, row in all_globals(log.store).items():
                if row.paused or row.status in FAILED:
                    action = "FORGET" if row.status in FAILED else "START_RETRY"
                    log.do(OperateGlobal(xid=xid, action=action, reason="", principal=""))
                elif row.status is GlobalStatus.BEGIN and not row.submitted:
                    log.do(
                        DecideGlobal(
                            xid=xid, commit=False, reason="", wait_ms=0, reports_expected=True
                        )
                    )
                calls = tuple(
                    ReportedCall(xid, call.branch.branch_id, call.operation, "DONE", b"", "", "", 0)
                    for call in next_calls(row, get_branches(log.store, xid))
                )
                log.do(ReportCalls(epoch=1, calls=calls))


@pytest.mark.parametrize("seed", SEEDS)
def test_rows_stay_intact_whatever_is_proposed(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(COMMANDS):
        chaos.step()
        assert_transactions_intact(chaos.log.store)


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_can_end_and_leaves_nothing_behind(seed: int) -> None:
    chaos = Chaos(seed)
    for _ in range(COMMANDS):
        chaos.step()
    chaos.settle()
    log = chaos.log
    assert_transactions_intact(log.store)
    found = all_globals(log.store)
    assert {row.status for row in found.values()} <= ENDED
    assert log.machine.row_lock_count == log.machine.global_count == 0
    state = load_state(log.store)
    log.wait(state.retention_ms)
    log.fire_due()
    log.wait(state.summary_retention_ms)
    log.fire_due()
    left = {key[:2] for key, _ in log.rows(b"X")}
    # Resource managers that never come back leave what they were to clean.
    kept = {keys.INCIDENT, keys.AUDIT, keys.CHANNEL_INDEX, keys.SUBSCRIBER, keys.SAGA_DEFINITION}
    assert left <= kept
    kinds = {keys.timer_of(key)[1] for key, _ in log.rows(keys.TIMER)}
    assert kinds <= {TimerKind.SESSION_EXPIRY, TimerKind.TICKET_EXPIRY, TimerKind.WAIT_DEADLINE}
