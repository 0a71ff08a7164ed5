"""How branches are called in our own protocol.

A branch that a client registered is told the decision in a JSON body. One that the cluster runs by
itself gets its payload, and the same facts in headers. Whoever prepared a message and is asked what
became of it gets an empty object. In any case:

    2xx    done; what a step answers is kept as its result. Of a message: it is submitted
    409    a definite failure: nothing was done, and never will be; a `code` in the answer says of
           what kind. Of a message: it is given up
    425    still going on
    else   nobody knows, so it is called again
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import quote

import msgspec

from node.delivery.calls import Answer, BranchRequest, Reply, Verdict
from statemachine.transactions.driving import GREATEST_RESULT_BYTES
from statemachine.transactions.planning import Call, Operation, Program
from statemachine.transactions.rows import Branch, Global

Resolve = Callable[[Branch, Sequence[Branch]], bytes]
"""A branch's payload with the results of others in place of references to them.

Raises:
    ValueError: something is referred to that is not there.
"""

GREATEST_MESSAGE: Final = 500

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")

_AS_IT_IS: Final = (Program.MESSAGE, Program.STATE_MACHINE)
"""Their payloads are sent as they are: what looks like a reference is their own affair."""

_ACTIONS: Final = {Operation.COMMIT: "commit", Operation.ROLLBACK: "rollback"}


class NativeStyle:
    """`CallStyle` of transactions of our own protocol."""

    def __init__(self, resolve: Resolve = lambda branch, _: branch.payload) -> None:
        self._resolve = resolve

    def request_of(
        self,
        row: Global,
        branch: Branch,
        branches: Sequence[Branch],
        operation: Operation,
        epoch: int,
    ) -> BranchRequest | Answer:
        if row.program == Program.CLIENT:
            body = _decision(row, branch, operation, epoch)
        elif row.program in _AS_IT_IS:
            body = branch.payload or b"{}"
            if operation is Operation.ROLLBACK and branch.compensation:
                body = branch.compensation
        else:
            try:
                body = self._resolve(branch, branches) or b"{}"
            except ValueError as error:
                if operation is Operation.FORWARD:
                    return Answer(
                        Verdict.FAILED,
                        failure_type="REFERENCE_UNRESOLVED",
                        failure_message=str(error),
                    )
                body = branch.payload
        url = Call(branch, operation).url
        assert url, "what has no URL is not called over HTTP"
        return BranchRequest(
            url=url,
            headers=_headers(row, branch, operation, epoch),
            body=body,
            timeout_ms=branch.timeout_ms,
        )

    def answer_of(self, row: Global, branch: Branch, operation: Operation, reply: Reply) -> Answer:
        status = reply.status
        if 200 <= status < 300:
            return _done(reply) if operation is Operation.FORWARD else Answer(Verdict.DONE)
        if status == 425:
            return Answer(Verdict.ONGOING)
        if status == 409:
            return Answer(
                Verdict.FAILED,
                failure_type=_code(reply),
                failure_message=_message(reply, "refused"),
            )
        message = "redirected, which is not followed" if 300 <= status < 400 else f"{status}"
        return Answer(
            Verdict.RETRY,
            failure_type=f"STATUS_{status}",
            failure_message=_message(reply, message),
        )


def _headers(
    row: Global, branch: Branch, operation: Operation, epoch: int
) -> tuple[tuple[str, str], ...]:
    headers = [
        ("Content-Type", "application/json"),
        ("Accept", "application/json"),
        ("X-Tx-Xid", row.xid),
        ("Tidelock-Branch-Id", str(branch.branch_id)),
        ("Tidelock-Operation", operation.value),
        ("Tidelock-Epoch", str(epoch)),
    ]
    if branch.name:
        headers.append(("Tidelock-Step", quote(branch.name, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~")))
    return tuple(headers)


class _Decision(msgspec.Struct, rename="camel"):
    xid: str
    branch_id: int
    action: str
    mode: str
    resource_id: str
    application_data: msgspec.Raw | str | None
    epoch: int


def _decision(row: Global, branch: Branch, operation: Operation, epoch: int) -> bytes:
    return msgspec.json.encode(
        _Decision(
            xid=row.xid,
            branch_id=branch.branch_id,
            action=_ACTIONS[operation],
            mode=branch.mode,
            resource_id=branch.resource_id,
            application_data=_json_or_text(branch.application_data),
            epoch=epoch,
        )
    )


def _json_or_text(data: bytes) -> msgspec.Raw | str | None:
    if not data:
        return None
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return data.decode(errors="replace")
    return msgspec.Raw(data)


def _done(reply: Reply) -> Answer:
    """It is done, though its answer may be nothing that can be kept."""
    if reply.cut or len(reply.body) > GREATEST_RESULT_BYTES:
        return Answer(
            Verdict.DONE,
            failure_type="RESULT_TOO_LARGE",
            failure_message=f"done, but its answer is larger than {GREATEST_RESULT_BYTES} bytes",
        )
    body = reply.body.strip()
    if not body:
        return Answer(Verdict.DONE)
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = msgspec.json.encode(body.decode(errors="replace"))
        return Answer(Verdict.DONE, text if len(text) <= GREATEST_RESULT_BYTES else b"")
    return Answer(Verdict.DONE, body)


def _code(reply: Reply) -> str:
    """Return what kind of refusal a participant says it is, as a code of its own."""
    try:
        said = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "REFUSED"
    code = said.get("code") if isinstance(said, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else "REFUSED"


def _message(reply: Reply, otherwise: str) -> str:
    """Return what the participant says went wrong, as far as it says so."""
    try:
        said = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = reply.body.decode(errors="replace").strip()
    if isinstance(said, dict):
        texts = (said.get(name) for name in ("detail", "message", "error", "reason", "title"))
        said = next((text for text in texts if isinstance(text, str) and text), None)
    if not isinstance(said, str) or not said:
        return f"the participant answered {otherwise}"
    return said[:GREATEST_MESSAGE]
