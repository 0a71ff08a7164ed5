"""How branches of DTM's transactions are called, and what their answers mean."""

from __future__ import annotations

import json

import pytest

from node.delivery.calls import Answer, BranchRequest, Reply, Verdict
from node.delivery.dtm import DtmStyle
from statemachine.positions import Position
from statemachine.transactions.dtm_options import DtmOptions, encode_options
from statemachine.transactions.planning import Operation
from statemachine.transactions.rows import DTM, Branch, Calls, Global, RetryRule
from statemachine.transactions.statuses import BranchStatus, GlobalStatus, Mode

STYLE = DtmStyle()
URL = "http://busi/act"
MODES = {"SAGA": Mode.SAGA, "MESSAGE": Mode.MESSAGE, "TCC": Mode.TCC, "XA": Mode.XA}


def row(program: str = "SAGA", options: DtmOptions | None = None, mode: str = "") -> Global:
    kept = DtmOptions(gid="g") if options is None else options
    return Global(
        xid="g",
        name="",
        status=GlobalStatus.BEGIN,
        program=program,
        submitted=True,
        begun=Position(1, 0),
        begun_ms=0,
        protocol=DTM,
        options=encode_options(kept),
        mode=mode,
    )


def branch(mode: Mode = Mode.SAGA, *, payload: bytes = b"{}", url: str = URL) -> Branch:
    return Branch(
        branch_id=7,
        name="01",
        mode=mode,
        status=BranchStatus.REGISTERED,
        resource_id="",
        application_id="",
        unit_id="",
        session_id=0,
        application_data=b"",
        calls=Calls(url, url, url),
        payload=payload,
        depends_on=(),
        timeout_ms=0,
        retry=RetryRule(),
    )


def request(of: Global, called: Branch, operation: Operation = Operation.FORWARD) -> BranchRequest:
    found = STYLE.request_of(of, called, [called], operation, 1)
    assert isinstance(found, BranchRequest)
    return found


@pytest.mark.parametrize(
    ("program", "mode", "operation", "method", "query"),
    [
        ("SAGA", "SAGA", "FORWARD", "POST", "branch_id=01&gid=g&op=action&trans_type=saga"),
        ("SAGA", "SAGA", "ROLLBACK", "POST", "branch_id=01&gid=g&op=compensate&trans_type=saga"),
        ("CLIENT", "TCC", "COMMIT", "POST", "branch_id=01&gid=g&op=confirm&trans_type=tcc"),
        ("CLIENT", "TCC", "ROLLBACK", "POST", "branch_id=01&gid=g&op=cancel&trans_type=tcc"),
        ("CLIENT", "XA", "COMMIT", "POST", "branch_id=01&gid=g&op=commit&trans_type=xa"),
        ("CLIENT", "XA", "ROLLBACK", "POST", "branch_id=01&gid=g&op=rollback&trans_type=xa"),
        ("MESSAGE", "MESSAGE", "FORWARD", "POST", "branch_id=01&gid=g&op=action&trans_type=msg"),
        ("MESSAGE", "MESSAGE", "QUERY", "GET", "branch_id=00&gid=g&op=msg&trans_type=msg"),
    ],
)
def test_each_operation_has_its_op(
    program: str, mode: str, operation: str, method: str, query: str
) -> None:
    found = request(row(program, mode=mode), branch(MODES[mode]), Operation(operation))
    assert (found.method, found.url) == (method, f"{URL}?{query}")


@pytest.mark.parametrize(("asked_s", "timeout_ms"), [(0, 3_000), (1, 1_000), (60, 60_000)])
def test_a_call_has_three_seconds_unless_its_client_says_otherwise(
    asked_s: int, timeout_ms: int
) -> None:
    found = request(row(options=DtmOptions(gid="g", request_timeout=asked_s)), branch())
    assert found.timeout_ms == timeout_ms


def test_a_fragment_is_no_part_of_a_call() -> None:
    assert "#" not in request(row(), branch(url=f"{URL}?a=1#here")).url


def test_a_gid_is_escaped_in_the_query() -> None:
    found = request(row(options=DtmOptions(gid="a&op=cancel 订")), branch())
    assert "gid=a%26op%3Dcancel+%E8%AE%A2&op=action" in found.url


def test_a_payload_is_sent_as_it_is_and_an_empty_one_with_get() -> None:
    found = request(row(), branch(payload=b"not json"))
    assert (found.method, found.body) == ("POST", b"not json")
    found = request(row(), branch(payload=b""))
    assert (found.method, found.body) == ("GET", b"")


@pytest.mark.parametrize("data", ["", "{", "[]", '{"name":"n","data":"!"}', '{"name":1}'])
def test_a_workflow_of_odd_data_is_called_all_the_same(data: str) -> None:
    found = request(row("WORKFLOW", DtmOptions(gid="g", custom_data=data)), branch(),
                    Operation.QUERY)  # fmt: skip
    assert (found.method, found.body) == ("POST", b"")


@pytest.mark.parametrize("payload", [b"", b"{", b"[1]", b'"x"'])
def test_json_rpc_takes_payloads_that_are_no_object(payload: bytes) -> None:
    options = DtmOptions(gid="g", protocol="json-rpc")
    found = request(row(options=options), branch(payload=payload, url=f"{URL}?method=m"))
    sent = json.loads(found.body)
    assert sent["method"] == "m"
    assert sent["params"]["gid"] == "g"


def answer(reply: Reply, operation: Operation = Operation.FORWARD, **of: str) -> Answer:
    mode = MODES[of.get("mode", "SAGA")]
    options = DtmOptions(gid="g", protocol=of.get("protocol", ""))
    return STYLE.answer_of(row(of.get("program", "SAGA"), options), branch(mode), operation, reply)


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (425, b"", Verdict.ONGOING),
        (425, b"FAILURE", Verdict.ONGOING),
        (409, b"ONGOING", Verdict.ONGOING),
        (200, b"ONGOING FAILURE", Verdict.ONGOING),
        (409, b"", Verdict.FAILED),
        (200, b"FAILURE", Verdict.FAILED),
        (502, b"FAILURE", Verdict.FAILED),
        (200, b"", Verdict.DONE),
        (201, b"", Verdict.RETRY),
        (204, b"", Verdict.RETRY),
        (302, b"", Verdict.RETRY),
        (400, b"", Verdict.RETRY),
        (500, b"", Verdict.RETRY),
    ],
)
def test_answers_are_judged_in_order(status: int, body: bytes, verdict: Verdict) -> None:
    assert answer(Reply(status=status, body=body)).verdict is verdict


@pytest.mark.parametrize(
    ("operation", "mode"),
    [("ROLLBACK", "SAGA"), ("COMMIT", "TCC"), ("ROLLBACK", "XA"), ("FORWARD", "MESSAGE")],
)
def test_what_is_decided_cannot_be_refused(operation: str, mode: str) -> None:
    found = answer(Reply(status=409, body=b"no"), Operation(operation), mode=mode)
    assert (found.verdict, found.failure_type, found.failure_message) == (
        Verdict.RETRY,
        "REFUSED",
        "no",
    )


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b'{"result": 1}', Verdict.DONE),
        (b'{"error": null}', Verdict.DONE),
        (b"no json", Verdict.DONE),
        (b"[]", Verdict.DONE),
        (b'{"error": {"code": -32901}}', Verdict.FAILED),
        (b'{"error": {"code": -32902}}', Verdict.ONGOING),
        (b'{"error": {"code": -32603}}', Verdict.RETRY),
        (b'{"error": "odd"}', Verdict.RETRY),
    ],
)
def test_json_rpc_answers_have_codes(body: bytes, verdict: Verdict) -> None:
    assert answer(Reply(status=200, body=body), protocol="json-rpc").verdict is verdict


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.ONGOING),
        (409, Verdict.ONGOING),
        (425, Verdict.ONGOING),
        (500, Verdict.RETRY),
        (302, Verdict.RETRY),
    ],
)
def test_a_workflow_goes_on_until_its_client_has_ended_it(status: int, verdict: Verdict) -> None:
    found = answer(Reply(status=status), Operation.QUERY, program="WORKFLOW")
    assert found.verdict is verdict


def test_a_clients_header_replaces_ours_however_it_is_written() -> None:
    headers = (("content-TYPE", "text/json"), ("X-A", "1"), ("x-a", "2"))
    found = request(row(options=DtmOptions(gid="g", branch_headers=headers)), branch())
    assert sorted(found.headers) == [
        ("Accept", "application/json"),
        ("content-TYPE", "text/json"),
        ("x-a", "2"),
    ]
