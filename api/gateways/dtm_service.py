"""What can be asked in DTM's protocol, whichever way it was asked: over HTTP or JSON-RPC."""

from __future__ import annotations

import asyncio
from typing import Final
from uuid import uuid4

import msgspec
from aiohttp import web

from api.cluster import View
from api.gateways import dtm_objects, dtm_topics
from api.gateways.dtm_answers import DtmError, failure, ongoing, result_of
from api.gateways.dtm_bodies import DtmBody, check_type
from api.gateways.dtm_requests import DtmRequests
from api.service import Service
from statemachine.commands import (
    AbortDtm,
    AnyCommand,
    DeleteSubscriber,
    DeleteTopic,
    HastenAllDtm,
    HastenDtm,
    PutSubscriber,
    StopDtm,
)
from statemachine.outcomes import (
    AnyResult,
    DtmHastened,
    GlobalAnswered,
    Pending,
    Rejected,
    RejectionCode,
)
from statemachine.transactions.dtm_options import (
    FAILED,
    SUCCEED,
    reason_of,
    status_of,
    xid_of,
)
from statemachine.transactions.rows import Branch, get_branches, get_global
from statemachine.transactions.statuses import BRANCH_ENDED

GREATEST_REASON: Final = 1_000

_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_GID_LENGTH: Final = 22

_SETTLES_S: Final = 1.0
"""How much later than the wait's own deadline its request gives up: the cluster ends the wait."""


class Progressed(msgspec.Struct):
    """The answer to `prepareWorkflow`."""

    transaction: dtm_objects.DtmObject
    progresses: list[dtm_objects.DtmBranchObject]


def new_gid() -> str:
    """Return a random id in DTM's manner: 22 characters that cannot be mistaken for each other."""
    number = uuid4().int
    digits: list[str] = []
    for _ in range(_GID_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


class DtmService:
    """Every method raises `DtmError` and the exceptions of `Cluster`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._requests = DtmRequests(service.settings.destinations)

    # --- transactions

    async def prepare(self, request: web.Request, body: DtmBody) -> None:
        await self._do(request, self._requests.prepare(body))

    async def submit(self, request: web.Request, body: DtmBody) -> None:
        command = self._requests.submit(body)
        found = await self._do(request, command, wait_ms=command.wait_ms)
        if command.wait_ms:
            assert isinstance(found, GlobalAnswered)
            await self._check_end(body, found)

    async def _check_end(self, body: DtmBody, found: GlobalAnswered) -> None:
        status = status_of(found.status, submitted=True)
        if status == SUCCEED or body.trans_type == "workflow":
            return
        if status == FAILED:
            view = await self._service.own_view()
            row = get_global(view.reader, found.xid)
            reason = found.reason if row is None else reason_of(row)
            raise failure(f"reason: {reason}.")
        if body.trans_type in ("tcc", "xa"):
            view = await self._service.own_view()
            at_it = next(filter(_is_at_it, get_branches(view.reader, found.xid)), None)
            if at_it is not None:
                raise ongoing(f"branch {at_it.name} is still at it:")
        raise failure(
            f"wait result not return success: the transaction is {status}, it is not finished yet "
            "and goes on."
        )

    async def abort(self, request: web.Request, body: DtmBody) -> None:
        reason = body.rollback_reason[:GREATEST_REASON]
        await self._do_to(request, body.gid, AbortDtm(xid=xid_of(body.gid), reason=reason))

    async def force_stop(self, request: web.Request, gid: str) -> None:
        await self._do_to(request, gid, StopDtm(xid=xid_of(gid)))

    async def hasten(self, request: web.Request, gid: str) -> None:
        await self._do_to(request, gid, HastenDtm(xid=xid_of(gid)))

    async def hasten_all(self, request: web.Request, timeout_s: int, limit: int) -> DtmHastened:
        command = HastenAllDtm(later_than_ms=1_000 * timeout_s, limit=limit)
        found = await self._do(request, command)
        assert isinstance(found, DtmHastened)
        return found

    async def register(self, request: web.Request, members: dict[str, str]) -> None:
        gid, command = self._requests.register(members)
        await self._do_to(request, gid, command)

    async def prepare_workflow(self, request: web.Request, body: DtmBody) -> Progressed:
        check_type(body)
        if body.trans_type != "workflow":
            raise DtmError("prepareWorkflow takes workflows only")
        await self._do(request, self._requests.prepare(body, in_any_status=True))
        view = await self._service.own_view()
        row = get_global(view.reader, xid_of(body.gid))
        if row is None:
            raise DtmError(f"no TransGlobal with gid: {body.gid} found")
        return Progressed(
            dtm_objects.transaction_of(view.reader, row),
            dtm_objects.progresses_of(view.reader, row),
        )

    # --- topics

    async def subscribe(self, request: web.Request, topic: str, url: str, remark: str) -> None:
        dtm_topics.check_topic(topic)
        self._requests.check_subscriber(url)
        view = await self.view(request)
        dtm_topics.check_new(view.reader, topic, url)
        name = dtm_topics.subscriber_name(url)
        subscribed = PutSubscriber(topic=topic, name=name, url=url, remark=remark[:200])
        await self._do(request, subscribed)

    async def unsubscribe(self, request: web.Request, topic: str, url: str) -> None:
        dtm_topics.check_topic(topic)
        view = await self.view(request)
        name = dtm_topics.subscriber_of(view.reader, topic, url).name
        await self._do(request, DeleteSubscriber(topic=topic, name=name))

    async def delete_topic(self, request: web.Request, topic: str) -> None:
        dtm_topics.check_topic(topic)
        view = await self.view(request)
        if not dtm_topics.query(view.reader, dtm_topics.CATEGORY, topic).kv:
            raise DtmError("no such a topic")
        await self._do(request, DeleteTopic(topic=topic))

    # --- the cluster

    async def view(self, request: web.Request) -> View:
        """Return a state that has all that was answered before."""
        return await self._service.view(request)

    async def _do_to(self, request: web.Request, gid: str, command: AnyCommand) -> None:
        """Do something to a transaction that exists."""
        try:
            await self._do(request, command)
        except _UnknownGidError:
            raise DtmError(f"no TransGlobal with gid: {gid} found") from None
        except _NotPreparedError:
            raise failure(f"no trans with gid: {gid} status: prepared found") from None

    async def _do(
        self, request: web.Request, command: AnyCommand, *, wait_ms: int = 0
    ) -> AnyResult:
        """Have a command applied, and wait with it while it waits."""
        service = self._service
        proposed = await service.cluster.propose(
            (command,), timeout_ms=service.settings.default_timeout_ms
        )
        (outcome,) = proposed.outcomes
        if isinstance(outcome, Pending):
            ends_at = asyncio.get_running_loop().time() + wait_ms / 1_000 + _SETTLES_S
            outcome = await service.waits.outcome(request, outcome.ticket, ends_at, None)
        if isinstance(outcome, Rejected):
            if outcome.code is RejectionCode.TRANSACTION_NOT_FOUND:
                raise _UnknownGidError(outcome.detail)
            if outcome.code is RejectionCode.TRANSACTION_NOT_ACTIVE:
                raise _NotPreparedError(outcome.detail)
        return result_of(outcome)


class _UnknownGidError(DtmError):
    """No transaction has this gid."""


class _NotPreparedError(DtmError):
    """The transaction takes no more branches."""


def _is_at_it(branch: Branch) -> bool:
    """Whether a branch said at its last call that it goes on."""
    called = branch.due_ms > 0 and branch.status not in BRANCH_ENDED
    return called and branch.failure is None
