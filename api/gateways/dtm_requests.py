"""What clients of DTM's protocol say, checked and put into commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from api.destinations import Destinations, header_objection
from api.gateways.dtm_answers import DtmError
from api.gateways.dtm_bodies import (
    DtmBody,
    check_type,
    read_delay_s,
    read_saga_data,
    read_workflow_name,
    stripped,
)
from statemachine.commands import (
    DtmTransaction,
    PrepareDtm,
    RecordDtmProgress,
    RegisterDtmBranch,
    Step,
    SubmitDtm,
)
from statemachine.transactions.dtm_options import (
    DEFAULT_TIMEOUT_S,
    DtmOptions,
    encode_options,
    request_timeout_s,
    retry_rule,
    xid_of,
)
from statemachine.transactions.participation import GREATEST_BRANCHES
from statemachine.transactions.rows import Calls
from statemachine.transactions.topics import GREATEST_NAME_BYTES, topic_of

GREATEST_HEADERS: Final = 32
GREATEST_HEADER_BYTES: Final = 8 << 10
"""Of all names and values together: they are kept with the transaction."""

GREATEST_TEXT_BYTES: Final = 64 << 10
"""Of custom_data, a result and a reason."""

GREATEST_WAIT_MS: Final = 60_000
EXTRA_WAIT_S: Final = 2
"""How much longer than one call the answer waits for the end."""

_PROTOCOLS: Final = ("", "http", "json-rpc")
_GREATEST_BRANCH_ID: Final = 128


class DtmRequests:
    """Makes commands of bodies, under the rules of one node."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations

    # --- transactions

    def prepare(self, body: DtmBody, *, in_any_status: bool = False) -> PrepareDtm:
        """Raises: DtmError"""
        if body.trans_type == "msg" and not body.query_prepared:
            raise DtmError(
                "query_prepared is missing: without it nobody could be asked what became of the "
                "message"
            )
        return PrepareDtm(transaction=self._transaction(body), in_any_status=in_any_status)

    def submit(self, body: DtmBody) -> SubmitDtm:
        """Raises: DtmError"""
        transaction = self._transaction(body)
        return SubmitDtm(
            transaction=transaction,
            wait_ms=wait_ms_of(body) if body.wait_result else 0,
            ended_as=body.req_extra.get("status", ""),
            reason=_bounded("rollback_reason", body.req_extra.get("rollback_reason", "")),
        )

    def _transaction(self, body: DtmBody) -> DtmTransaction:
        check_type(body)
        options = self._options(body)
        steps: tuple[Step, ...] = ()
        delay_s, name, xid = 0, "", xid_of(body.gid)
        match body.trans_type:
            case "saga":
                steps = self._saga(body, options)
            case "msg":
                steps = self._message(body, options)
                delay_s = read_delay_s(body.custom_data)
            case "workflow":
                name = read_workflow_name(body.custom_data)
        timeout_s = body.timeout_to_fail
        if not timeout_s and body.trans_type in ("tcc", "xa", "msg"):
            timeout_s = DEFAULT_TIMEOUT_S
        return DtmTransaction(
            xid=xid,
            trans_type=body.trans_type,
            name=(name or ("" if xid == body.gid else body.gid))[:100],
            steps=steps,
            timeout_ms=1_000 * timeout_s,
            delay_ms=1_000 * delay_s,
            options=encode_options(options),
        )

    def _options(self, body: DtmBody) -> DtmOptions:
        if body.protocol not in _PROTOCOLS:
            raise DtmError(
                f"protocol {body.protocol[:20]!r} is not served: branches are called over http or "
                "json-rpc"
            )
        if body.query_prepared:
            self._check("query_prepared", body.query_prepared)
        return DtmOptions(
            gid=body.gid,
            timeout_to_fail=body.timeout_to_fail,
            request_timeout=body.request_timeout,
            retry_interval=body.retry_interval,
            retry_limit=body.retry_limit,
            wait_result=body.wait_result,
            concurrent=body.concurrent,
            protocol="" if body.protocol == "http" else body.protocol,
            query_prepared=body.query_prepared,
            custom_data=_bounded("custom_data", body.custom_data),
            branch_headers=_headers(body.branch_headers),
            result=_bounded("req_extra.result", body.req_extra.get("result", "")),
        )

    def _saga(self, body: DtmBody, options: DtmOptions) -> tuple[Step, ...]:
        """Return the steps in an order in which each stands only on earlier ones."""
        count = len(body.steps)
        if count > GREATEST_BRANCHES:
            raise DtmError(f"a saga has at most {GREATEST_BRANCHES} steps")
        data = read_saga_data(body.custom_data)
        if data.concurrent:
            order, places = _sorted(count, data.orders)
        else:
            order, places = list(range(count)), list(range(count))
        rule = retry_rule(options)
        steps: list[Step] = []
        for at in order:
            step = body.steps[at]
            action, compensate = step.get("action", ""), step.get("compensate", "")
            number = f"{at + 1:02}"
            self._check(f"the action of step {number}", action)
            self._check(f"the compensation of step {number}", compensate)
            if data.concurrent:
                before = sorted({places[each] for each in data.orders.get(at, ())})
            else:
                before = [at - 1] if at else []
            steps.append(
                Step(
                    name=number,
                    calls=Calls(action, "", compensate),
                    payload=body.payload(at).encode(),
                    depends_on=tuple(before),
                    timeout_ms=0,
                    retry=rule,
                )
            )
        return tuple(steps)

    def _message(self, body: DtmBody, options: DtmOptions) -> tuple[Step, ...]:
        rule = retry_rule(options)
        steps: list[Step] = []
        for at, step in enumerate(body.steps):
            number, action = f"{at + 1:02}", step.get("action", "")
            topic = topic_of(action)
            if topic is None:
                self._check(f"the action of step {number}", action)
            elif not 0 < len(topic.encode()) <= GREATEST_NAME_BYTES:
                raise DtmError(f"step {number} names no usable topic")
            steps.append(
                Step(
                    name=number,
                    calls=Calls(action, "", ""),
                    payload=body.payload(at).encode(),
                    depends_on=(),
                    timeout_ms=0,
                    retry=rule,
                )
            )
        return tuple(steps)

    # --- branches

    def register(
        self, members: Mapping[str, str]
    ) -> tuple[str, RegisterDtmBranch | RecordDtmProgress]:
        """Return the gid with the command. Raises: DtmError"""
        gid, kind = stripped(members.get("gid", "")), members.get("trans_type", "")
        branch_id = members.get("branch_id", "")
        if kind not in ("tcc", "xa", "workflow"):
            raise DtmError(f"unknow trans type: {kind[:100]}")
        if not 0 < len(branch_id) <= _GREATEST_BRANCH_ID:
            raise DtmError(f"branch_id must have 1 to {_GREATEST_BRANCH_ID} characters")
        data = members.get("data", "").encode()
        if kind == "workflow":
            return gid, RecordDtmProgress(
                xid=xid_of(gid),
                branch_id=branch_id,
                op=members.get("op", "")[:_GREATEST_BRANCH_ID],
                status=members.get("status", "")[:_GREATEST_BRANCH_ID],
                data=data,
            )
        if kind == "tcc":
            commit, rollback = members.get("confirm", ""), members.get("cancel", "")
            self._check("confirm", commit)
            self._check("cancel", rollback)
        else:
            commit = rollback = members.get("url", "")
            self._check("url", commit)
        return gid, RegisterDtmBranch(
            xid=xid_of(gid),
            branch_id=branch_id,
            commit=commit,
            rollback=rollback,
            payload=data,
        )

    # --- topics

    def check_subscriber(self, url: str) -> str:
        """Raises: DtmError"""
        if not url:
            raise DtmError("url is missing")
        self._check("url", url)
        return url

    def _check(self, what: str, url: str) -> None:
        """Raises: DtmError: the cluster does not call this URL; an empty one is not called."""
        if url and (objection := self._destinations.objection(url)):
            raise DtmError(f"{what} {objection}")


def wait_ms_of(body: DtmBody) -> int:
    """Return how long the answer to a submission may wait for the end."""
    asked = request_timeout_s(DtmOptions(gid="", request_timeout=body.request_timeout))
    return min(1_000 * (asked + EXTRA_WAIT_S), GREATEST_WAIT_MS)


def _headers(headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    size = sum(len(name) + len(value) for name, value in headers.items())
    if len(headers) > GREATEST_HEADERS or size > GREATEST_HEADER_BYTES:
        raise DtmError(
            f"branch_headers are more than {GREATEST_HEADERS}, or more than "
            f"{GREATEST_HEADER_BYTES} bytes"
        )
    for name, value in headers.items():
        if (objection := header_objection(name, value)) is not None:
            raise DtmError(f"branch_headers: {name[:100]!r} {objection}")
    return tuple(headers.items())


def _bounded(name: str, text: str) -> str:
    if len(text.encode()) > GREATEST_TEXT_BYTES:
        raise DtmError(f"{name} is larger than {GREATEST_TEXT_BYTES} bytes")
    return text


def _sorted(count: int, orders: Mapping[int, list[int]]) -> tuple[list[int], list[int]]:
    """Return the steps so that each comes after its predecessors, and where each came to stand.

    Raises:
        DtmError: a step is named that does not exist, or steps wait for each other.
    """
    for step, before in orders.items():
        if step >= count or any(not 0 <= each < count for each in before):
            raise DtmError(f"custom_data.orders names a step that is none of 0 to {count - 1}")
    waits_for = {at: set(orders.get(at, ())) for at in range(count)}
    behind: dict[int, list[int]] = {}
    for at, predecessors in waits_for.items():
        for each in predecessors:
            behind.setdefault(each, []).append(at)
    order = [at for at in range(count) if not waits_for[at]]
    for at in order:
        for each in behind.get(at, ()):
            waits_for[each].discard(at)
            if not waits_for[each]:
                order.append(each)
    if len(order) < count:
        raise DtmError("custom_data.orders has steps that wait for each other")
    places = [0] * count
    for place, at in enumerate(order):
        places[at] = place
    return order, places
