"""What is said on the channel is what nodes read, and what nodes say is read, or refused."""

from __future__ import annotations

import json

import msgspec
import pytest

from api import rm_messages as of_nodes
from statemachine.transactions import channel_rows, channel_sessions
from tidelock.rm import messages
from tidelock.rm.messages import (
    AskFates,
    CallKind,
    CleanAsked,
    CommitAsked,
    Complaint,
    FatesTold,
    GoElsewhere,
    GuardedBranch,
    Leave,
    Register,
    Request,
    Response,
    Result,
    Unknown,
    Unreadable,
    Welcome,
    decode,
    encode,
)
from tidelock.rm.resource import Fate, PhaseTwoStatus


def test_nodes_read_what_a_process_says() -> None:
    register = Register(
        application_id="orders",
        host="h1",
        instance="a",
        resources=("db",),
        modes=("AT", "XA"),
        modes_of=(("XA", "AT"),),
        session_id=7,
        clean_batch=messages.GREATEST_CLEAN_BATCH,
    )
    read = of_nodes.decode(encode(register).encode())
    assert isinstance(read, of_nodes.Register)
    assert (read.resources, read.session_id, read.clean_batch) == (["db"], 7, 200)
    assert [[mode.value for mode in own] for own in read.modes_of] == [["XA", "AT"]]
    result = Result(
        request_id=3,
        status=PhaseTwoStatus.ROLLBACK_FAILED_RETRYABLE,
        detail="no such xid",
        not_found=True,
    )
    answered = of_nodes.decode(encode(result).encode())
    assert isinstance(answered, of_nodes.Result)
    assert (answered.status, answered.not_found) == ("ROLLBACK_FAILED_RETRYABLE", True)
    assert isinstance(of_nodes.decode(encode(Leave()).encode()), of_nodes.Leave)
    many = tuple(
        GuardedBranch(xid="x" * 64, branch_id=2**53) for _ in range(messages.GREATEST_FATES)
    )
    asked = of_nodes.decode(encode(AskFates(request_id=4, branches=many)).encode())
    assert isinstance(asked, of_nodes.AskFates)
    assert len(encode(AskFates(request_id=4, branches=many))) < messages.GREATEST_MESSAGE_BYTES


def test_a_process_reads_what_nodes_tell_of_branches() -> None:
    fate = of_nodes.BranchFate(xid="x:1", branch_id=7, status="COMMITTED", may_clean=True)
    told = decode(of_nodes.encode(of_nodes.Fates(request_id=4, branches=[fate])))
    assert isinstance(told, FatesTold)
    assert told.request_id == 4
    assert told.branches == (Fate(xid="x:1", branch_id=7, status="COMMITTED", may_clean=True),)


def test_both_sides_know_the_same_words_and_bounds() -> None:
    assert {*map(str, CallKind)} == {*map(str, of_nodes.CallKind)}
    for kind, results in messages.RESULTS.items():
        expected = of_nodes.EXPECTED[of_nodes.CallKind(kind.value)]
        assert {status.value for status in results} == {status.value for status in expected}
        assert messages.NOT_NOW[kind] in results
    assert messages.GREATEST_MESSAGE_BYTES == of_nodes.GREATEST_MESSAGE_BYTES
    assert messages.GREATEST_DETAIL == of_nodes.GREATEST_DETAIL
    assert messages.GREATEST_FATES == of_nodes.GREATEST_FATES
    assert messages.GREATEST_CLEAN_BATCH == channel_sessions.GREATEST_CLEAN_BATCH
    assert messages.LEAST_GRACE_MS == channel_sessions.LEAST_GRACE_MS
    assert messages.GREATEST_GRACE_MS == channel_sessions.GREATEST_GRACE_MS
    assert messages.GREATEST_RESOURCES == channel_sessions.GREATEST_RESOURCES
    # It is stored with an end mark.
    assert messages.GREATEST_RESOURCE_BYTES == channel_rows.GREATEST_RESOURCE_BYTES - 1


def test_the_greatest_register_fits_into_a_message() -> None:
    register = Register(
        application_id="é" * 64,
        host="h" * 128,
        resources=tuple(f"{number:03}" + "é" * 125 for number in range(64)),
        modes=("AT", "LCN", "SAGA", "TCC", "TXC", "XA"),
        session_id=2**53,
    )
    assert len(encode(register).encode()) < messages.GREATEST_MESSAGE_BYTES


@pytest.mark.parametrize("body", [None, b"{}", b'{"name":"ab}c","n":[1,{"x":null}]}', b"1"])
def test_nodes_read_the_requests_of_a_process(body: bytes | None) -> None:
    said = Request(
        request_id=4,
        method="POST",
        path="/api/v1/transactions",
        key="k",
        timeout_ms=5,
        body=msgspec.UNSET if body is None else msgspec.Raw(body),
    )
    heard = of_nodes.decode(encode(said).encode())
    assert isinstance(heard, of_nodes.Request)
    assert (heard.request_id, heard.method, heard.path) == (4, "POST", "/api/v1/transactions")
    assert (heard.key, heard.timeout_ms) == ("k", 5)
    assert (None if heard.body is msgspec.UNSET else bytes(heard.body)) == body


def test_what_nodes_say_is_read() -> None:
    welcome = of_nodes.encode(
        of_nodes.Welcome(
            session_id=12, resumed=True, cluster_id="c", node_id="n2", heartbeat_ms=5, grace_ms=9
        )
    )
    assert decode(welcome) == Welcome(
        session_id=12,
        resumed=True,
        cluster_id="c",
        node_id="n2",
        heartbeat_ms=5,
        grace_ms=9,
        takes_requests=True,
    )
    answered = of_nodes.response_message(3, 201, b'{"xid":"x"}')
    assert decode(answered) == Response(request_id=3, status=201, body=msgspec.Raw(b'{"xid":"x"}'))
    called = of_nodes.Called(
        xid="x",
        branch_id=3,
        mode="AT",
        resource_id="db",
        application_data={"order": 7},  # type: ignore[arg-type]  # any JSON
        epoch=4,
        phase_one_done=True,
        owner_gone=True,
    )
    told = of_nodes.call_message(of_nodes.CallKind.COMMIT, 1, of_nodes.encode(called))
    assert decode(told) == CommitAsked(
        request_id=1,
        xid="x",
        branch_id=3,
        mode="AT",
        resource_id="db",
        application_data={"order": 7},
        epoch=4,
        phase_one_done=True,
        owner_gone=True,
    )
    branches = [of_nodes.CleanBranch(xid=each, branch_id=1, mode="AT") for each in ("x", "y")]
    cleaned = of_nodes.Called(
        xid="x", branch_id=1, mode="AT", resource_id="db", epoch=4, branches=branches
    )
    clean = decode(of_nodes.call_message(of_nodes.CallKind.CLEAN, 2, of_nodes.encode(cleaned)))
    assert isinstance(clean, CleanAsked)
    assert [each.xid for each in clean.branches] == ["x", "y"]
    complaint = of_nodes.encode(of_nodes.Complaint(code="NOT_JSON", detail="It is none."))
    assert decode(complaint) == Complaint(code="NOT_JSON", detail="It is none.")
    assert decode(of_nodes.encode(of_nodes.GoElsewhere(reason="n1 stops"))) == GoElsewhere(
        reason="n1 stops"
    )


def test_what_a_later_release_says_is_passed_over() -> None:
    assert decode(b'{"type":"ticket","requestId":1}') == Unknown("ticket")
    later = {"type": "go-elsewhere", "reason": "so", "soon": 1}
    assert decode(json.dumps(later).encode()) == GoElsewhere(reason="so")


def test_a_question_that_cannot_be_read_can_still_be_answered() -> None:
    odd = decode(b'{"type":"clean","requestId":4,"xid":7}')
    assert isinstance(odd, Unreadable)
    assert (odd.kind, odd.request_id) == (CallKind.CLEAN, 4)
    data = b"[" * 100_000 + b"]" * 100_000
    deep = decode(b'{"type":"branch-commit","requestId":5,"xid":"x","applicationData":%b}' % data)
    assert isinstance(deep, Unreadable)
    assert (deep.kind, deep.request_id) == (CallKind.COMMIT, 5)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'"welcome"',
        b'{"sessionId":1}',
        b'{"type":7}',
        b'{"type":"welcome","resumed":false,"heartbeatMs":5}',
        b'{"type":"welcome","sessionId":0,"resumed":false,"heartbeatMs":5}',
        b'{"type":"welcome","sessionId":1,"resumed":"no","heartbeatMs":5}',
        b'{"type":"welcome","sessionId":1,"resumed":false,"heartbeatMs":0}',
        b'{"type":"branch-commit","xid":"x"}',
        b'{"type":"branch-commit","requestId":"1"}',
        b'{"type":"error"}',
        b'{"type":"later","nested":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_no_node_says_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        decode(text)
