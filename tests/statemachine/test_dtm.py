"""Transactions of DTM's protocol in the state: what its words mean, and what bad data does."""

from __future__ import annotations

import msgspec
import pytest

from statemachine.commands import (
    AbortDtm,
    DtmTransaction,
    HastenAllDtm,
    HastenDtm,
    PrepareDtm,
    RecordDtmProgress,
    RegisterDtmBranch,
    ReportCalls,
    ReportedCall,
    Step,
    StopDtm,
    SubmitDtm,
)
from statemachine.keys import META
from statemachine.outcomes import Applied, DtmHastened, Outcome, Pending, RejectionCode
from statemachine.transactions import dtm
from statemachine.transactions.dtm_options import (
    DtmOptions,
    decode_options,
    encode_options,
    merged,
    retry_rule,
    status_of,
    trans_type_of,
    xid_of,
)
from statemachine.transactions.dtm_progress import GREATEST_PROGRESSES, get_progresses
from statemachine.transactions.messages import get_undelivered
from statemachine.transactions.planning import next_calls
from statemachine.transactions.rows import Calls, RetryRule, get_branches, get_global
from statemachine.transactions.statuses import GlobalStatus
from tests.statemachine.building import code, result
from tests.statemachine.transacting import Transactions

GID = "g"


def transaction(
    trans_type: str = "saga",
    *steps: Step,
    gid: str = GID,
    timeout_ms: int = 0,
    delay_ms: int = 0,
    options: bytes | None = None,
    query: str = "",
) -> DtmTransaction:
    kept = DtmOptions(gid=gid, query_prepared=query)
    return DtmTransaction(
        xid=xid_of(gid),
        trans_type=trans_type,
        name="",
        steps=steps,
        timeout_ms=timeout_ms,
        delay_ms=delay_ms,
        options=encode_options(kept) if options is None else options,
    )


def step(name: str, *depends_on: int) -> Step:
    calls = Calls(f"http://{name}/do", "", f"http://{name}/undo")
    return Step(
        name=name,
        calls=calls,
        payload=b"",
        depends_on=depends_on,
        timeout_ms=0,
        retry=RetryRule(),
    )


class Dtm(Transactions):
    def prepare(self, wanted: DtmTransaction, *, in_any_status: bool = False) -> Outcome:
        return self.do(PrepareDtm(transaction=wanted, in_any_status=in_any_status))

    def submit(self, wanted: DtmTransaction, *, wait_ms: int = 0, ended_as: str = "") -> Outcome:
        return self.do(
            SubmitDtm(transaction=wanted, wait_ms=wait_ms, ended_as=ended_as, reason="r")
        )

    def let_pass(self, duration_ms: int) -> None:
        """Let time pass, and do what is due then."""
        self.wait(duration_ms)
        self.tick()
        self.fire_due()

    def dtm_status(self, gid: str = GID) -> str:
        row = get_global(self.store, xid_of(gid))
        return "" if row is None else status_of(row.status, submitted=row.submitted)


@pytest.mark.parametrize(
    ("status", "submitted", "expected"),
    [
        ("BEGIN", False, "prepared"),
        ("BEGIN", True, "submitted"),
        ("COMMITTING", False, "submitted"),
        ("COMMIT_RETRYING", False, "submitted"),
        ("ASYNC_COMMITTING", False, "submitted"),
        ("COMMIT_FAILED", False, "submitted"),
        ("COMMIT_RETRY_TIMEOUT", False, "submitted"),
        ("COMMITTED", False, "succeed"),
        ("ROLLING_BACK", True, "aborting"),
        ("ROLLBACK_RETRYING", True, "aborting"),
        ("ROLLBACK_FAILED", True, "aborting"),
        ("ROLLBACK_RETRY_TIMEOUT", True, "aborting"),
        ("TIMEOUT_ROLLING_BACK", True, "aborting"),
        ("TIMEOUT_ROLLBACK_RETRYING", True, "aborting"),
        ("TIMEOUT_ROLLBACK_FAILED", True, "aborting"),
        ("ROLLED_BACK", True, "failed"),
        ("TIMEOUT_ROLLED_BACK", True, "failed"),
        ("FINISHED", True, "failed"),
    ],
)
def test_each_status_has_one_of_dtms(status: str, submitted: bool, expected: str) -> None:
    assert status in GlobalStatus.__members__
    assert status_of(status, submitted=submitted) == expected


def test_a_gid_that_can_be_an_xid_is_one() -> None:
    assert xid_of("2ihQjbvXDEbmMjtAAvQRRA") == "2ihQjbvXDEbmMjtAAvQRRA"
    assert xid_of("a:b._-9") == "a:b._-9"


def test_another_gid_goes_under_a_digest_that_no_gid_can_pass_for() -> None:
    odd = ["x" * 65, "a b", "订单", ""]
    derived = [xid_of(gid) for gid in odd]
    assert len(set(derived)) == len(odd)
    assert all(xid.startswith("dtm:") and len(xid) <= 64 for xid in derived)
    assert all(xid_of(xid) != xid for xid in derived)
    assert derived == [xid_of(gid) for gid in odd]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (DtmOptions(gid="g"), (-1, 10_000, 20_000)),
        (DtmOptions(gid="g", retry_interval=3), (-1, 3_000, 20_000)),
        (DtmOptions(gid="g", retry_interval=60), (-1, 60_000, 60_000)),
        (DtmOptions(gid="g", timeout_to_fail=4), (-1, 4_000, 20_000)),
        (DtmOptions(gid="g", timeout_to_fail=10), (-1, 10_000, 20_000)),
        (DtmOptions(gid="g", timeout_to_fail=4, retry_interval=7), (-1, 7_000, 20_000)),
        (DtmOptions(gid="g", retry_limit=2), (2, 10_000, 20_000)),
    ],
)
def test_the_interval_is_the_clients_or_a_short_timeout_or_ten_seconds(
    options: DtmOptions, expected: tuple[int, int, int]
) -> None:
    rule = retry_rule(options)
    assert (rule.limit, rule.interval_ms, rule.greatest_interval_ms) == expected


def test_what_is_asked_at_submission_replaces_what_was_prepared() -> None:
    stored = DtmOptions(gid="g", request_timeout=5, branch_headers=(("A", "1"),))
    asked = DtmOptions(gid="g", request_timeout=8, retry_interval=2)
    expected = DtmOptions(
        gid="g", request_timeout=8, retry_interval=2, branch_headers=(("A", "1"),)
    )
    assert merged(stored, asked) == expected
    assert decode_options(encode_options(expected)) == expected


@pytest.mark.parametrize("graph", [[(), (0,), (1,)], [(), (), ()], [(), (0,), ()], [()]])
def test_a_saga_without_calls_comes_to_what_its_single_states_would_come_to(
    monkeypatch: pytest.MonkeyPatch, graph: list[tuple[int, ...]]
) -> None:
    nothing = Calls("", "", "http://a/undo")
    steps = [
        msgspec.structs.replace(step(f"{at:02}", *before), calls=nothing)
        for at, before in enumerate(graph)
    ]
    logs = [Dtm(), Dtm()]
    for log in logs:
        log.submit(transaction("saga", *steps))
        log.submit(transaction("saga", *steps, gid="next"))
        assert log.dtm_status() == "succeed"
        monkeypatch.setattr(dtm, "needs_no_call", lambda _: False)
    at_once, step_by_step = ([row for row in log.store.items() if row[0] != META] for log in logs)
    assert at_once == step_by_step
    fields = ("global_count", "hlc", "applied_position")
    at_once_state, state = ([getattr(log.machine, field) for field in fields] for log in logs)
    assert at_once_state == state


def test_a_saga_waits_for_its_end_on_a_ticket() -> None:
    log = Dtm()
    assert isinstance(log.submit(transaction("saga", step("01")), wait_ms=5_000), Pending)
    assert log.dtm_status() == "submitted"
    assert isinstance(log.submit(transaction("saga", step("01")), wait_ms=5_000), Pending)


def test_a_prepared_tcc_times_out_and_another_type_does_not() -> None:
    log = Dtm()
    log.prepare(transaction("tcc", timeout_ms=35_000))
    log.prepare(transaction("saga", gid="s"))
    log.let_pass(34_999)
    assert log.dtm_status() == "prepared"
    log.let_pass(1)
    assert log.dtm_status() == "failed"
    log.let_pass(3_600_000)
    assert log.dtm_status("s") == "prepared"


@pytest.mark.parametrize(
    "wanted",
    [
        transaction("odd"),
        transaction(options=b""),
        transaction(options=msgspec.msgpack.encode([1, 2])),
        transaction("saga", step("01", 0)),
        transaction("saga", step("01", 5)),
        transaction("saga", step("01", -1)),
        transaction("saga", *[step("01")] * 1_001),
        transaction("msg", *[step("01")] * 1_001),
        msgspec.structs.replace(transaction(), xid="not an xid"),
        msgspec.structs.replace(transaction(), xid="x" * 65),
    ],
)
def test_what_makes_no_sense_is_rejected(wanted: DtmTransaction) -> None:
    log = Dtm()
    for outcome in (log.prepare(wanted), log.submit(wanted)):
        assert code(outcome) is RejectionCode.INVALID_COMMAND
    assert log.machine.global_count == 0


def test_options_that_cannot_be_read_change_nothing_at_submission() -> None:
    log = Dtm()
    log.prepare(transaction("tcc"))
    wanted = transaction("tcc", options=b"\xff")
    assert code(log.submit(wanted)) is RejectionCode.INVALID_COMMAND
    assert log.dtm_status() == "prepared"


@pytest.mark.parametrize("ended_as", ["", "submitted", "SUCCEED"])
def test_a_workflow_ends_in_one_of_two_ways(ended_as: str) -> None:
    log = Dtm()
    wanted = transaction("workflow", query="http://w/run")
    log.prepare(wanted)
    assert code(log.submit(wanted, ended_as=ended_as)) is RejectionCode.INVALID_COMMAND
    assert log.dtm_status() == "prepared"
    assert isinstance(log.submit(wanted, ended_as="succeed"), Applied)
    assert log.dtm_status() == "succeed"


def test_the_progress_of_a_workflow_is_bounded_and_ends_with_it() -> None:
    log = Dtm()
    log.prepare(transaction("workflow", query="http://w/run"))
    for number in range(GREATEST_PROGRESSES):
        assert isinstance(log.do(progress(str(number))), Applied)
    assert code(log.do(progress("more"))) is RejectionCode.INVALID_COMMAND
    log.submit(transaction("workflow"), ended_as="failed")
    assert len(get_progresses(log.store, GID)) == GREATEST_PROGRESSES
    log.let_pass(25 * 3_600_000)
    assert get_progresses(log.store, GID) == []


def progress(branch_id: str) -> RecordDtmProgress:
    return RecordDtmProgress(xid=GID, branch_id=branch_id, op="action", status="succeed", data=b"d")


@pytest.mark.parametrize(
    "command",
    [
        AbortDtm(xid="nobody", reason=""),
        StopDtm(xid="nobody"),
        HastenDtm(xid="nobody"),
        StopDtm(xid="x" * 100),
    ],
)
def test_nothing_is_done_to_what_is_not_there(command: AbortDtm | StopDtm | HastenDtm) -> None:
    assert code(Dtm().do(command)) is RejectionCode.TRANSACTION_NOT_FOUND


def test_a_message_that_is_stopped_delivers_nothing_and_leaves_nothing() -> None:
    log = Dtm()
    log.prepare(transaction("msg", step("01"), query="http://s/q"))
    assert get_undelivered(log.store, GID) is not None
    log.do(StopDtm(xid=GID))
    assert log.dtm_status() == "failed"
    assert get_undelivered(log.store, GID) is None
    assert log.machine.global_count == 0
    row = get_global(log.store, GID)
    assert row is not None
    assert row.due_ms == -1
    assert trans_type_of(row) == "msg"


@pytest.mark.parametrize("kind", ["saga", "tcc", "xa", "msg", "workflow"])
def test_whatever_is_unfinished_can_be_stopped_once(kind: str) -> None:
    log = Dtm()
    log.prepare(transaction(kind, step("01"), query="http://s/q"))
    if kind in ("tcc", "xa"):
        register = RegisterDtmBranch(
            xid=GID, branch_id="01", commit="http://a/c", rollback="http://a/r", payload=b""
        )
        log.do(register)
    if kind != "workflow":
        log.submit(transaction(kind, step("01")))
    assert isinstance(log.do(StopDtm(xid=GID)), Applied)
    assert log.dtm_status() == "failed"
    assert code(log.do(StopDtm(xid=GID))) is RejectionCode.TRANSACTION_DECIDED
    assert log.machine.global_count == 0
    log.let_pass(25 * 3_600_000)
    assert get_global(log.store, GID) is None


def test_haste_is_bounded_and_finds_only_what_is_late() -> None:
    log = Dtm()
    for number in range(3):
        late = transaction("msg", step("01"), gid=f"m{number}", delay_ms=200_000)
        log.submit(late)
    soon = transaction("msg", step("01"), gid="soon", delay_ms=50_000)
    log.submit(soon)
    hasten = HastenAllDtm(later_than_ms=105_000, limit=2)
    assert result(log.do(hasten)) == DtmHastened(count=2, more=True)
    assert result(log.do(hasten)) == DtmHastened(count=1, more=False)
    (branch,) = get_branches(log.store, "soon")
    assert branch.due_ms == 50_000
    for odd in (
        HastenAllDtm(later_than_ms=-5, limit=-1),
        HastenAllDtm(later_than_ms=2**63, limit=1),
    ):
        assert isinstance(log.do(odd), Applied)


def test_a_sender_who_is_at_it_has_the_interval_begin_anew() -> None:
    log = Dtm()
    log.prepare(transaction("msg", query="http://s/q"))
    (asked,) = get_branches(log.store, GID)
    for verdict, attempts in (("RETRY", 1), ("RETRY", 2), ("ONGOING", 0), ("RETRY", 1)):
        report = ReportedCall(GID, asked.branch_id, "QUERY", verdict, b"", "", "", 0)
        log.do(ReportCalls(epoch=1, calls=(report,)))
        (asked,) = get_branches(log.store, GID)
        assert asked.attempts == attempts
    assert asked.due_ms == 10_000


@pytest.mark.parametrize("verdict", ["DONE", "FAILED", "RETRY", "ONGOING", "ODD"])
def test_only_its_client_ends_a_workflow(verdict: str) -> None:
    log = Dtm()
    log.prepare(transaction("workflow", query="http://w/run"))
    (called,) = get_branches(log.store, GID)
    report = ReportedCall(GID, called.branch_id, "QUERY", verdict, b"", "", "", 0)
    assert isinstance(log.do(ReportCalls(epoch=1, calls=(report,))), Applied)
    assert log.dtm_status() == "prepared"


@pytest.mark.parametrize("kind", ["msg", "workflow"])
def test_what_names_nobody_to_ask_waits_until_it_is_told(kind: str) -> None:
    log = Dtm()
    log.prepare(transaction(kind, step("01")))
    log.let_pass(3_600_000)
    row = get_global(log.store, GID)
    assert row is not None
    assert (row.status, row.due_ms) == ("BEGIN", -1)
    assert next_calls(row, get_branches(log.store, GID)) == []
    assert isinstance(log.submit(transaction(kind), ended_as="succeed"), Applied)
    assert log.dtm_status() in ("submitted", "succeed")
