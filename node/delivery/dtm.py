"""How the branches of transactions of DTM's protocol are called.

A branch with a payload is called with POST, one without with GET, and an XA branch always with
POST. What it is called for stands in the query: `branch_id, gid, op, trans_type`. Of the answer, in
this order:

    425, or ONGOING in the body     still going on
    409, or FAILURE in the body     a definite failure
    200                             done
    else                            nobody knows, so it is called again

Only a saga's action can fail for good: whatever was decided, and a message, is asked for again.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import msgspec

from node.delivery.calls import Answer, BranchRequest, Reply, Verdict
from statemachine.transactions.dtm_options import (
    DtmOptions,
    options_of,
    request_timeout_s,
    trans_type_of,
)
from statemachine.transactions.planning import Operation, Program
from statemachine.transactions.rows import Branch, Global
from statemachine.transactions.statuses import Mode

ASKED_BRANCH: Final = "00"
"""The branch id with which a message's sender and a workflow's client are called."""

JSON_RPC: Final = "json-rpc"
JSON_RPC_FAILURE: Final = -32901
JSON_RPC_ONGOING: Final = -32902

_GREATEST_MESSAGE: Final = 500

_OPS: Final = {
    (Mode.SAGA, Operation.FORWARD): "action",
    (Mode.SAGA, Operation.ROLLBACK): "compensate",
    (Mode.MESSAGE, Operation.FORWARD): "action",
    (Mode.MESSAGE, Operation.QUERY): "msg",
    (Mode.TCC, Operation.COMMIT): "confirm",
    (Mode.TCC, Operation.ROLLBACK): "cancel",
    (Mode.XA, Operation.COMMIT): "commit",
    (Mode.XA, Operation.ROLLBACK): "rollback",
}


class _Workflow(msgspec.Struct):
    """The `custom_data` of a workflow."""

    name: str = ""
    data: str = ""
    """In base64."""


class DtmStyle:
    """`CallStyle` of DTM's protocol."""

    def request_of(
        self,
        row: Global,
        branch: Branch,
        branches: Sequence[Branch],
        operation: Operation,
        epoch: int,
    ) -> BranchRequest | Answer:
        options = options_of(row)
        asked = operation is Operation.QUERY
        facts = {
            "branch_id": ASKED_BRANCH if asked else branch.name,
            "gid": options.gid,
            "op": _OPS.get((branch.mode, operation), ""),
            "trans_type": trans_type_of(row),
        }
        method, body = _method_and_body(branch, operation)
        if row.program == Program.WORKFLOW:
            facts["op"], body = _workflow(options)
            method = "POST"
        url = _url(branch, operation)
        if options.protocol == JSON_RPC and not asked and "method" in url:
            method, body = "POST", _json_rpc(url, branch.payload, facts)
        else:
            url = _with_query(url, facts)
        return BranchRequest(
            method=method,
            url=url,
            headers=_headers(options),
            body=body,
            timeout_ms=1_000 * request_timeout_s(options),
        )

    def answer_of(self, row: Global, branch: Branch, operation: Operation, reply: Reply) -> Answer:
        verdict = _verdict(options_of(row), reply)
        if row.program == Program.WORKFLOW and verdict is not Verdict.RETRY:
            # Its client says itself how it ended; until then it is called again.
            return Answer(Verdict.ONGOING)
        if verdict in (Verdict.DONE, Verdict.ONGOING):
            return Answer(verdict)
        refused = verdict is Verdict.FAILED
        can_fail = operation is Operation.QUERY or (
            operation is Operation.FORWARD and branch.mode is Mode.SAGA
        )
        said = reply.body.decode(errors="replace").strip()[:_GREATEST_MESSAGE]
        return Answer(
            Verdict.FAILED if refused and can_fail else Verdict.RETRY,
            failure_type="REFUSED" if refused else f"STATUS_{reply.status}",
            failure_message=said or f"the participant answered {reply.status}",
        )


def _method_and_body(branch: Branch, operation: Operation) -> tuple[str, bytes]:
    if branch.mode is Mode.XA:
        return "POST", b""
    if operation is Operation.QUERY or not branch.payload:
        return "GET", b""
    return "POST", branch.payload


def _workflow(options: DtmOptions) -> tuple[str, bytes]:
    """Return the name of a workflow, and its data."""
    try:
        workflow = msgspec.json.decode(options.custom_data, type=_Workflow)
        return workflow.name, base64.b64decode(workflow.data)
    except (msgspec.DecodeError, binascii.Error, UnicodeDecodeError):
        return "", b""


def _url(branch: Branch, operation: Operation) -> str:
    calls = branch.calls
    match operation:
        case Operation.FORWARD | Operation.QUERY:
            url = calls.forward
        case Operation.COMMIT:
            url = calls.commit
        case Operation.ROLLBACK:
            url = calls.rollback
    assert url, "what has no URL is not called"
    return url


def _with_query(url: str, facts: dict[str, str]) -> str:
    whole, _, _ = url.partition("#")
    return f"{whole}{'&' if '?' in whole else '?'}{urlencode(facts)}"


def _headers(options: DtmOptions) -> tuple[tuple[str, str], ...]:
    """Return the headers; the client's own replace ours, however they are written."""
    named = {"content-type": ("Content-Type", "application/json")}
    named["accept"] = ("Accept", "application/json")
    for name, value in options.branch_headers:
        named[name.lower()] = (name, value)
    return tuple(named.values())


def _json_rpc(url: str, payload: bytes, facts: dict[str, str]) -> bytes:
    """Return the call of the method that the URL's query names."""
    try:
        params: Any = msgspec.json.decode(payload or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError):
        params = {}
    if not isinstance(params, dict):
        params = {"params": params}
    query = parse_qs(url.partition("#")[0].partition("?")[2])
    return msgspec.json.encode(
        {
            "jsonrpc": "2.0",
            "method": query.get("method", [""])[0],
            "id": f"{facts['gid']}-{facts['branch_id']}-{facts['op']}",
            "params": {**params, **facts},
        }
    )


def _verdict(options: DtmOptions, reply: Reply) -> Verdict:
    body = reply.body
    if reply.status == 425 or b"ONGOING" in body:
        return Verdict.ONGOING
    if reply.status == 409 or b"FAILURE" in body:
        return Verdict.FAILED
    if reply.status != 200:
        return Verdict.RETRY
    return _json_rpc_verdict(body) if options.protocol == JSON_RPC else Verdict.DONE


def _json_rpc_verdict(body: bytes) -> Verdict:
    """Return what an answer of status 200 means; without an error it is done."""
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Verdict.DONE
    error = said.get("error") if isinstance(said, dict) else None
    if not error:
        return Verdict.DONE
    code = error.get("code") if isinstance(error, dict) else None
    if code == JSON_RPC_FAILURE:
        return Verdict.FAILED
    return Verdict.ONGOING if code == JSON_RPC_ONGOING else Verdict.RETRY
