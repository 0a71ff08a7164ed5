"""Calls of our own protocol: what a participant is sent, and what its answer means."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from node.delivery.alerts import GREATEST_QUEUED, Alerts
from node.delivery.calls import Answer, BranchRequest, Reply, Verdict
from node.delivery.native import NativeStyle
from statemachine.positions import Position
from statemachine.transactions.driving import GREATEST_RESULT_BYTES
from statemachine.transactions.planning import Operation, Program
from statemachine.transactions.rows import Branch, Calls, Global, RetryRule
from statemachine.transactions.statuses import BranchStatus, GlobalStatus, Mode

STYLE = NativeStyle()


def row(program: str = Program.SAGA, status: GlobalStatus = GlobalStatus.BEGIN) -> Global:
    return Global(
        xid="x",
        name="",
        status=status,
        program=program,
        submitted=True,
        begun=Position(1, 0),
        begun_ms=0,
    )


def branch(name: str = "pay", payload: bytes = b'{"a":1}', data: bytes = b"") -> Branch:
    return Branch(
        branch_id=7,
        name=name,
        mode=Mode.SAGA,
        status=BranchStatus.REGISTERED,
        resource_id="db",
        application_id="app",
        unit_id="",
        session_id=0,
        application_data=data,
        calls=Calls("http://p/do", "http://p/commit", "http://p/undo"),
        payload=payload,
        depends_on=(),
        timeout_ms=300,
        retry=RetryRule(),
    )


def request(of: Branch, operation: Operation, program: str = Program.SAGA) -> BranchRequest:
    found = STYLE.request_of(row(program), of, [of], operation, 5)
    assert isinstance(found, BranchRequest)
    return found


def answer(operation: Operation = Operation.FORWARD, **reply: object) -> Answer:
    found = Reply(**reply)  # type: ignore[arg-type]
    return STYLE.answer_of(row(), branch(), operation, found)


@pytest.mark.parametrize(
    ("operation", "url"),
    [
        (Operation.FORWARD, "http://p/do"),
        (Operation.COMMIT, "http://p/commit"),
        (Operation.ROLLBACK, "http://p/undo"),
        (Operation.QUERY, "http://p/do"),
    ],
)
def test_a_step_gets_its_payload_and_the_facts_in_headers(operation: Operation, url: str) -> None:
    found = request(branch(), operation)
    assert (found.method, found.url, found.body, found.timeout_ms) == (
        "POST", url, b'{"a":1}', 300,
    )  # fmt: skip
    assert dict(found.headers) == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "X-Tx-Xid": "x",
        "Tidelock-Branch-Id": "7",
        "Tidelock-Operation": operation.value,
        "Tidelock-Epoch": "5",
        "Tidelock-Step": "pay",
    }


def test_a_step_without_a_payload_gets_an_empty_object() -> None:
    assert request(branch(payload=b""), Operation.FORWARD).body == b"{}"


def test_the_name_of_a_step_stays_within_its_header() -> None:
    headers = dict(request(branch(name="a\r\nHost: é%"), Operation.FORWARD).headers)
    assert headers["Tidelock-Step"] == "a%0D%0AHost: %C3%A9%25"


@pytest.mark.parametrize(
    ("data", "seen"),
    [(b"", None), (b'{"a": [1]}', {"a": [1]}), (b"not json", "not json"), (b"\xff", "\ufffd")],
)
def test_a_registered_branch_is_told_the_decision_with_its_data(data: bytes, seen: object) -> None:
    found = request(branch(name="", data=data), Operation.ROLLBACK, Program.CLIENT)
    assert msgspec.json.decode(found.body) == {
        "xid": "x",
        "branchId": 7,
        "action": "rollback",
        "mode": "SAGA",
        "resourceId": "db",
        "applicationData": seen,
        "epoch": 5,
    }


def test_references_in_a_payload_are_resolved_and_one_to_nothing_fails_the_step() -> None:
    def resolve(of: Branch, branches: Sequence[Branch]) -> bytes:
        if of.name == "lost":
            raise ValueError("no step is named 'gone'")
        return b'{"a":2}'

    style = NativeStyle(resolve)
    found = style.request_of(row(), branch(), [branch()], Operation.FORWARD, 5)
    assert isinstance(found, BranchRequest)
    assert found.body == b'{"a":2}'
    lost = branch(name="lost")
    assert style.request_of(row(), lost, [lost], Operation.FORWARD, 5) == Answer(
        Verdict.FAILED,
        failure_type="REFERENCE_UNRESOLVED",
        failure_message="no step is named 'gone'",
    )
    # What is compensated must be called, whatever its payload once referred to.
    undone = style.request_of(row(), lost, [lost], Operation.ROLLBACK, 5)
    assert isinstance(undone, BranchRequest)
    assert undone.body == lost.payload


VERDICTS = [
    (200, "DONE"), (201, "DONE"), (202, "DONE"), (204, "DONE"), (299, "DONE"),
    (409, "FAILED"), (425, "ONGOING"),
    (301, "RETRY"), (302, "RETRY"), (304, "RETRY"), (400, "RETRY"), (401, "RETRY"), (404, "RETRY"),
    (408, "RETRY"), (410, "RETRY"), (422, "RETRY"), (429, "RETRY"), (500, "RETRY"), (503, "RETRY"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "verdict"), VERDICTS)
@pytest.mark.parametrize("operation", Operation)
def test_a_status_means_the_same_for_every_operation(
    operation: Operation, status: int, verdict: str
) -> None:
    assert answer(operation, status=status).verdict == verdict


@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"", b""),
        (b' {"a": 1}\n', b'{"a": 1}'),
        (b"OK", b'"OK"'),
        (b"\xff", '"\ufffd"'.encode()),
        (b'"' * GREATEST_RESULT_BYTES, b""),
    ],
)
def test_what_a_step_answers_is_kept_as_json(body: bytes, result: bytes) -> None:
    assert answer(status=200, body=body) == Answer(Verdict.DONE, result)


def test_what_is_too_large_to_keep_is_done_all_the_same() -> None:
    found = answer(status=200, cut=True)
    assert (found.verdict, found.result, found.failure_type) == (
        Verdict.DONE, b"", "RESULT_TOO_LARGE",
    )  # fmt: skip


def test_what_is_committed_answers_nothing_that_is_kept() -> None:
    assert answer(Operation.COMMIT, status=200, body=b'{"a":1}') == Answer(Verdict.DONE)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": "no stock", "title": "t"}', "no stock"),
        (b'{"message": "no stock"}', "no stock"),
        (b"no stock\n", "no stock"),
        (b'"no stock"', "no stock"),
        (b"", "the participant answered refused"),
        (b"[1]", "the participant answered refused"),
        (b"x" * 1_000, "x" * 500),
    ],
)
def test_a_refusal_says_why_as_the_participant_says_it(body: bytes, message: str) -> None:
    found = answer(status=409, body=body)
    assert (found.failure_type, found.failure_message) == ("REFUSED", message)


# --- alerts


class _Sent:
    """A sender that keeps what it is given until it is answered."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, object]] = []
        self._replies: list[object] = []

    def send(self, request: BranchRequest, may_go: object, on_reply: object) -> object:
        self.bodies.append(msgspec.json.decode(request.body))
        self._replies.append(on_reply)
        return lambda: None

    def reply(self, **fields: object) -> None:
        self._replies.pop(0)(Reply(**fields))  # type: ignore[operator, arg-type]


RETRY = Answer(Verdict.RETRY, failure_type="STATUS_503", failure_message="busy")


def alerts(sent: _Sent, url: str = "http://ops/") -> Alerts:
    return Alerts(sent, url)  # type: ignore[arg-type]


def test_an_alert_is_sent_when_the_interval_has_doubled_three_times() -> None:
    sent = _Sent()
    told = alerts(sent)
    for attempts in range(5):
        told.consider(row(), branch(), attempts, RETRY)
        if sent.bodies:
            sent.reply(status=200)
    assert [body["retryCount"] for body in sent.bodies] == [4, 5]
    assert told.counters["sent"] == 2


def test_an_alert_is_sent_at_once_when_a_decision_is_refused_for_good() -> None:
    sent = _Sent()
    told = alerts(sent)
    failed = Answer(Verdict.FAILED, failure_type="REFUSED", failure_message="dirty")
    told.consider(row(), branch(), 0, failed)  # a step that refuses is what sagas are for
    assert sent.bodies == []
    told.consider(row(status=GlobalStatus.ROLLING_BACK), branch(), 0, failed)
    assert sent.bodies == [
        {"xid": "x", "status": "ROLLING_BACK", "branch": 7, "error": "REFUSED: dirty",
         "retryCount": 1}
    ]  # fmt: skip


def test_alerts_go_one_after_the_other_and_too_many_are_dropped() -> None:
    sent = _Sent()
    told = alerts(sent)
    for _ in range(GREATEST_QUEUED + 3):
        told.consider(row(), branch(), 3, RETRY)
    assert len(sent.bodies) == 1
    assert told.counters["dropped"] == 2
    sent.reply(failure_type="TIMEOUT", failure_message="no answer")
    assert len(sent.bodies) == 2
    assert told.counters["failed"] == 1


def test_without_a_url_nobody_is_told() -> None:
    sent = _Sent()
    alerts(sent, "").consider(row(), branch(), 9, RETRY)
    assert sent.bodies == []
