"""Every command in every version: done when that is active, else refused and without effect."""

from __future__ import annotations

from typing import get_args

import pytest

from statemachine import gates
from statemachine.commands import (
    AbandonAcquire,
    AbandonBranch,
    AbandonLock,
    AbortDtm,
    AcceptExecution,
    AcknowledgeSync,
    ActivateVersion,
    AdvanceExecution,
    AdvanceSequence,
    AnyCommand,
    AttachChannel,
    BeginGlobal,
    CancelWait,
    ChangeRouting,
    ClaimExecution,
    CloseSyncRound,
    Command,
    DecideGlobal,
    DecideProposal,
    DeleteSagaDefinition,
    DeleteSubscriber,
    DeleteTopic,
    DetachChannels,
    DtmTransaction,
    EndChannel,
    FinishExecution,
    FireTimers,
    HastenAllDtm,
    HastenDtm,
    JoinParticipant,
    LeaveParticipant,
    LockRows,
    ObserveHybridTime,
    OperateGlobal,
    PassFence,
    PrepareDtm,
    PrepareMessage,
    Progress,
    ProposeData,
    PutSagaDefinition,
    PutSubscriber,
    RecordAction,
    RecordBranchAnswer,
    RecordCleaned,
    RecordDtmProgress,
    RecordRecoveries,
    RecordSwept,
    RegisterBranch,
    RegisterChannel,
    RegisterDtmBranch,
    RenewExecutions,
    ReportBranch,
    ReportCalls,
    ReportClock,
    ReserveTimestamps,
    RunGlobal,
    SetSyncInterval,
    SetTransactionRetention,
    StartSaga,
    StopDtm,
    SubmitDtm,
    TickHybridClock,
    TrimChanges,
    TrimEvents,
    UnlockRows,
    VoteProposals,
)
from statemachine.machine import Machine
from statemachine.outcomes import Applied, Position, Rejected, RejectionCode, VersionActivated
from statemachine.state import MachineState, UnsupportedStateError, encode_state
from statemachine.transactions.dtm_options import DtmOptions, encode_options
from statemachine.transactions.rows import Calls
from tests.statemachine.building import (
    START_MS,
    Log,
    acquire,
    code,
    increment,
    merge,
    receive,
    record,
    release,
    renew,
    result,
    send,
    sync,
    tick,
    write,
)

NEWEST = 4
VERSIONS = range(1, NEWEST + 1)

DTM_TRANSACTION = DtmTransaction(
    xid="d",
    trans_type="tcc",
    name="",
    steps=(),
    timeout_ms=1,
    delay_ms=0,
    options=encode_options(DtmOptions(gid="d")),
)

SAMPLES: dict[type[Command], AnyCommand] = {
    type(sample): sample
    for sample in (
        record("a"),
        sync("a", 3),
        JoinParticipant(node_id="a"),
        LeaveParticipant(node_id="there"),
        ChangeRouting(node_id="n1", state="FAILED", reason="r"),
        FireTimers(timers=()),
        ActivateVersion(version=1),
        TrimEvents(before_wall_ms=START_MS + 1, limit=10),
        CancelWait(ticket=Position(1, 0)),
        TrimChanges(before_wall_ms=START_MS + 1, keep=0, limit=10),
        ReserveTimestamps(term=1, upto=5),
        TickHybridClock(),
        ObserveHybridTime(timestamp=5, max_skew_ms=0),
        AdvanceSequence(name="s", count=1),
        acquire(),
        renew(1),
        release(1),
        AbandonLock(name="l", owner="a", acquire=Position(1, 0)),
        AbandonAcquire(name="l", owner="a", principal="", key="k", ttl_ms=1),
        increment(),
        merge({"a": 1}),
        write(b"1"),
        tick(),
        send(),
        receive("a", {"b": 1}, "m"),
        ReportClock(node_id="a", lamport=1, vector={"a": 1}, own=False),
        CloseSyncRound(only_if_behind=False),
        AcknowledgeSync(round=1, node_id="a"),
        SetSyncInterval(interval_ms=500),
        ProposeData(
            proposal_id="p",
            integer_id=False,
            key="",
            data=b"1",
            timestamp=1,
            proposer="n1",
            voters=("n1",),
            window_ms=1_000,
        ),
        VoteProposals(node_id="n1", ballots=()),
        DecideProposal(proposal_id="p"),
        BeginGlobal(xid="", prefix="n1", name="", timeout_ms=0),
        RegisterBranch(
            xid="x",
            mode="AT",
            resource_id="",
            locks=(),
            wait_ms=0,
            application_id="",
            unit_id="",
            session_id=0,
            application_data=b"",
            calls=Calls(),
        ),
        ReportBranch(xid="x", branch_id=1, status="WITHDRAWN", application_data=None, failure=None),
        DecideGlobal(xid="x", commit=True, reason="", wait_ms=0, reports_expected=True),
        RunGlobal(
            xid="",
            prefix="n1",
            name="",
            program="SAGA",
            steps=(),
            timeout_ms=0,
            wait_ms=0,
            in_order=False,
            compensate_failed=False,
            forward_recovery=False,
        ),
        ReportCalls(epoch=1, calls=()),
        RecordRecoveries(epoch=1, xids=()),
        OperateGlobal(xid="x", action="FORGET", reason="", principal=""),
        LockRows(xid="x", branch_id=1, locks=(), wait_ms=0),
        UnlockRows(xid="x", branch_id=1, locks=()),
        PassFence(xid="x", branch_id=1, step="TRY", phase="ENTER"),
        AbandonBranch(xid="x", registration=Position(1, 0)),
        SetTransactionRetention(retention_ms=5, summary_retention_ms=6),
        RecordAction(principal="p", action="a", target="t", reason="r"),
        RegisterChannel(
            session_id=0,
            application_id="a",
            host="h",
            instance="",
            resources=("r",),
            modes=("AT",),
            clean_batch=1,
            grace_ms=1_000,
            node_id="n1",
            connection=1,
        ),
        AttachChannel(session_id=1, node_id="n1", connection=1),
        DetachChannels(node_id="n1", connections=((1, 1),)),
        EndChannel(session_id=1, connection=1),
        RecordCleaned(branches=()),
        RecordSwept(resource_id="db", host="", mode="AT", upto_ms=0),
        RecordBranchAnswer(epoch=1, xid="x", branch_id=1, answer="UNKNOWN"),
        PrepareMessage(
            xid="", prefix="n1", name="", query="", steps=(), delay_ms=0, query_after_ms=0
        ),
        PutSubscriber(topic="t", name="s", url="u", remark=""),
        DeleteSubscriber(topic="t", name="s"),
        DeleteTopic(topic="t"),
        PrepareDtm(transaction=DTM_TRANSACTION, in_any_status=False),
        SubmitDtm(transaction=DTM_TRANSACTION, wait_ms=0, ended_as="", reason=""),
        AbortDtm(xid="x", reason=""),
        StopDtm(xid="x"),
        HastenDtm(xid="x"),
        RegisterDtmBranch(xid="x", branch_id="01", commit="", rollback="", payload=b""),
        RecordDtmProgress(xid="x", branch_id="01", op="action", status="succeed", data=b""),
        HastenAllDtm(later_than_ms=1, limit=1),
        PutSagaDefinition(name="d", document=b""),
        DeleteSagaDefinition(name="d"),
        StartSaga(
            xid="",
            prefix="n1",
            name="",
            definition="d",
            input=b"",
            timeout_ms=0,
            wait_ms=0,
            forward_recovery=False,
        ),
        AcceptExecution(
            service="XA",
            business_type="B",
            business_data=b"{}",
            asynchronous=True,
            owner="n1",
            follows=False,
            room=2,
            lease_ms=300,
        ),
        AdvanceExecution(
            execution=Position(5, 1),
            epoch=2,
            jta_status="ACTIVE",
            xid="x",
            progress=Progress(1, 2, 3, 4),
            result=b"{}",
            lease_ms=300,
        ),
        ClaimExecution(execution=Position(5, 1), epoch=2, owner="n1", lease_ms=300),
        FinishExecution(
            execution=Position(5, 1),
            epoch=2,
            status="SUCCESS",
            jta_status="COMMITTED",
            error="",
            failures=b"",
            keep_ms=300,
        ),
        RenewExecutions(owner="n1", executions=((Position(5, 1), 2),), lease_ms=300),
    )
}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log whose program knows versions that no release has brought yet."""
    monkeypatch.setattr(gates, "SUPPORTED_VERSION", NEWEST)
    log = Log()
    log.do(record("there"))
    return log


def test_every_command_has_a_version_and_a_sample() -> None:
    assert set(gates.SINCE) == set(SAMPLES) == set(get_args(AnyCommand))


def test_a_release_knows_every_version_that_its_commands_need() -> None:
    assert max(gates.SINCE.values()) == gates.SUPPORTED_VERSION
    assert min(gates.SINCE.values()) == MachineState().active_version


@pytest.mark.parametrize("active", VERSIONS)
@pytest.mark.parametrize("since", VERSIONS)
@pytest.mark.parametrize("kind", SAMPLES, ids=lambda kind: kind.__name__)
def test_a_command_is_done_exactly_from_its_version_on(
    kind: type[Command], since: int, active: int, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.do(ActivateVersion(version=active))
    monkeypatch.setitem(gates.SINCE, kind, since)
    rows = [row for row in log.store.items() if row[0][:1] in b"eLNPRITKQWDX"]
    outcome = log.do(SAMPLES[kind])
    if active >= since:
        refused = isinstance(outcome, Rejected) and outcome.code
        assert refused is not RejectionCode.VERSION_NOT_ACTIVE
    else:
        assert code(outcome) is RejectionCode.VERSION_NOT_ACTIVE
        assert [row for row in log.store.items() if row[0][:1] in b"eLNPRITKQWDX"] == rows


@pytest.mark.parametrize(
    ("active", "wanted", "then"),
    [(1, 1, 1), (1, 2, 2), (1, NEWEST, NEWEST), (3, 2, 3), (3, 0, 3), (3, -(2**63), 3)],
)
def test_versions_only_rise(active: int, wanted: int, then: int, log: Log) -> None:
    log.do(ActivateVersion(version=active))
    assert result(log.do(ActivateVersion(version=wanted))) == VersionActivated(version=then)
    assert log.machine.active_version == then


@pytest.mark.parametrize("wanted", [NEWEST + 1, 2**64 - 1])
def test_a_version_that_the_program_does_not_know_is_refused(wanted: int, log: Log) -> None:
    assert code(log.do(ActivateVersion(version=wanted))) is RejectionCode.VERSION_UNKNOWN
    assert log.machine.active_version == 1


def test_a_version_is_active_for_the_next_command_of_the_same_request(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gates.SINCE, type(record()), 2)
    before, _, after = log.send(record("a"), ActivateVersion(version=2), record("a")).outcomes
    assert code(before) is RejectionCode.VERSION_NOT_ACTIVE
    assert isinstance(after, Applied)


def test_an_older_program_does_not_open_a_state_with_a_newer_active_version(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.do(ActivateVersion(version=NEWEST))
    Machine(log.store)
    monkeypatch.setattr(gates, "SUPPORTED_VERSION", NEWEST - 1)
    with pytest.raises(UnsupportedStateError, match=f"version {NEWEST} is active"):
        Machine(log.store)


def test_a_program_does_not_open_a_state_with_rows_of_another_layout() -> None:
    log = Log()
    log.store.put(b"M", encode_state(MachineState(layout=2)))
    with pytest.raises(UnsupportedStateError, match="layout 2"):
        Machine(log.store)
