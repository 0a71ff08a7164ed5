"""Locks: leases with fencing tokens, and waiting for them."""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from aiohttp import web

from api import json_text, requests
from api.cluster import Consistency
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    KEYLESS_WRITE_ERRORS,
    PAGE,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.replies import Reply
from api.requests import KEY_PATTERN
from api.service import Service, applied
from api.shapes import Answer, Body, Name, Page
from statemachine.commands import AbandonAcquire, AbandonLock, AcquireLock, ReleaseLock, RenewLock
from statemachine.lock_rows import LockStatus, get_lock, is_current, list_locks, mode_of
from statemachine.locks import GREATEST_TTL_MS, GREATEST_WAIT_MS, LEAST_TTL_MS
from statemachine.outcomes import (
    LockAbandoned,
    LockGranted,
    LockHolder,
    LockReleased,
    Position,
    RequestOutcome,
)

GREATEST_SHOWN: Final = 100
"""How many holders, and how many waiters, the view of one lock names."""


class LockMode(enum.StrEnum):
    EXCLUSIVE = "EXCLUSIVE"
    SHARED = "SHARED"


FencingToken = Annotated[
    int, msgspec.Meta(ge=0, le=2**63 - 1, description="As the grant of the lock named it.")
]


class AcquireBody(Body, frozen=True, kw_only=True):
    """Who wants a lock, how, and for how long."""

    owner: Name
    """Whoever names the same owner is the same to the lock."""
    ttl_ms: Annotated[int, msgspec.Meta(ge=LEAST_TTL_MS, le=GREATEST_TTL_MS)]
    """The lease ends so long after the grant, unless it is renewed."""
    mode: LockMode = LockMode.EXCLUSIVE
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=GREATEST_WAIT_MS)] = 0
    """How long to wait in the queue; 0 is not to wait."""


class HoldBody(Body, frozen=True, kw_only=True):
    """Who has a lock, by which grant."""

    owner: Name
    fencing_token: FencingToken


class AbandonBody(Body, frozen=True, kw_only=True):
    """Which acquire is to be undone."""

    owner: Name
    idempotency_key: Annotated[
        str,
        msgspec.Meta(
            pattern=KEY_PATTERN,
            description="The `Idempotency-Key` under which the lock was asked for.",
            examples=["acquireLock-1"],
        ),
    ]


class VerifyBody(Body, frozen=True, kw_only=True):
    """What somebody came with who says that he has a lock."""

    fencing_token: FencingToken


class Lease(Answer, frozen=True, kw_only=True):
    """A lock that is held."""

    name: str
    owner: str
    mode: LockMode
    fencing_token: int
    """Greater than that of every earlier grant of any lock."""
    expires_at: int
    """Milliseconds since the epoch, for display: the lease counts the time of the cluster."""


class Release(Answer, frozen=True, kw_only=True):
    name: str
    owner: str
    fencing_token: int
    released: bool
    """False when it had been released before."""


class Abandonment(Answer, frozen=True, kw_only=True):
    """What there was to undo. Both are false when the request had not arrived, or had ended."""

    name: str
    owner: str
    cancelled: bool
    """It waited."""
    released: bool
    """It had the lock."""


class Verdict(Answer, frozen=True, kw_only=True):
    valid: bool
    """The token is that of a lease of this lock which is not over."""


class Waiting(Answer, frozen=True, kw_only=True):
    owner: str
    mode: LockMode


class Holder(Answer, frozen=True, kw_only=True):
    """Who holds a lock."""

    owner: str
    mode: LockMode
    fencing_token: int
    expires_at: int
    """Milliseconds since the epoch, for display."""


class LockSummary(Answer, frozen=True, kw_only=True):
    """A lock, and who has held it longest."""

    name: str
    holder: Holder | None
    """Null when the lock is free."""
    fencing_token: int | None
    """Of that holder."""
    holder_count: int
    queue_length: int


class LockView(LockSummary, frozen=True, kw_only=True):
    """A lock with those who have it and those who wait, as many as are shown."""

    holders: list[Holder]
    """In the order of their grants."""
    queue: list[Waiting]
    """In the order of their turns."""


class Locks:
    """The handlers of `/api/v1/locks`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._acquires = msgspec.json.Decoder(AcquireBody)
        self._holds = msgspec.json.Decoder(HoldBody)
        self._abandons = msgspec.json.Decoder(AbandonBody)
        self._verifies = msgspec.json.Decoder(VerifyBody)

    async def acquire(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._acquires)
        name = requests.path_name(request, "name")
        owner = requests.name("owner", asked.owner)
        command = AcquireLock(
            name=name,
            owner=owner,
            mode=asked.mode.value,
            ttl_ms=asked.ttl_ms,
            wait_ms=asked.wait_ms,
        )

        def undo(position: Position) -> AbandonLock:
            return AbandonLock(name=name, owner=owner, acquire=position)

        outcome = await service.propose_waiting(
            request, body, command, wait_ms=asked.wait_ms, undo=undo
        )
        return self._lease(outcome)

    async def renew(self, request: web.Request) -> Reply:
        service = self._service
        body, name, asked = await self._read_hold(request)
        command = RenewLock(name=name, owner=asked.owner, fencing_token=asked.fencing_token)
        return self._lease(await service.propose(request, body, (command,)))

    async def release(self, request: web.Request) -> Reply:
        service = self._service
        body, name, asked = await self._read_hold(request)
        command = ReleaseLock(name=name, owner=asked.owner, fencing_token=asked.fencing_token)
        outcome = await service.propose(request, body, (command,))
        done = applied(outcome)
        assert isinstance(done, LockReleased)
        answer = Release(
            name=done.name,
            owner=done.owner,
            fencing_token=done.fencing_token,
            released=done.released,
        )
        return service.written(200, answer, outcome, outcome.position)

    async def abandon(self, request: web.Request) -> Reply:
        """Undo an acquire of a client that no longer wants its outcome.

        Under no key of its own: it is done by its nature as often as it is asked for.
        """
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._abandons)
        name = requests.path_name(request, "name")
        command = AbandonAcquire(
            name=name,
            owner=requests.name("owner", asked.owner),
            principal=requests.PRINCIPAL,
            key=asked.idempotency_key,
            ttl_ms=service.settings.idempotency_ttl_ms,
        )
        outcome = await service.cluster.propose(
            (command,), timeout_ms=requests.timeout_ms(request, service.settings)
        )
        done = applied(outcome)
        assert isinstance(done, LockAbandoned)
        answer = Abandonment(
            name=name, owner=command.owner, cancelled=done.cancelled, released=done.released
        )
        return service.replies.success(200, answer, outcome.position)

    async def verify(self, request: web.Request) -> Reply:
        """Look at the token. Never at a state that may be old: that is what tokens are against."""
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._verifies)
        name = requests.path_name(request, "name")
        view = await service.cluster.read(
            Consistency.LINEARIZABLE,
            timeout_ms=requests.timeout_ms(request, service.settings),
        )
        answer = Verdict(valid=is_current(view.reader, name, asked.fencing_token))
        return service.replies.success(200, answer, view.position)

    async def show(self, request: web.Request) -> Reply:
        name = requests.path_name(request, "name")
        view = await self._service.view(request)
        found = get_lock(view.reader, name, limit=GREATEST_SHOWN)
        holders = [_holder(holder) for holder in found.holders]
        answer = LockView(
            name=name,
            holder=holders[0] if holders else None,
            fencing_token=holders[0].fencing_token if holders else None,
            holder_count=found.holder_count,
            queue_length=found.waiter_count,
            holders=holders,
            queue=[
                Waiting(owner=waiter.owner, mode=LockMode(mode_of(waiter)))
                for waiter in found.waiters
            ],
        )
        return self._service.replies.success(200, answer, view.position)

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        view = await self._service.view(request)
        found, next_cursor = list_locks(view.reader, cursor=cursor, limit=limit)
        page = Page(items=[_summary(lock) for lock in found], next_cursor=next_cursor)
        return self._service.replies.success(200, page, view.position)

    async def _read_hold(self, request: web.Request) -> tuple[bytes, str, HoldBody]:
        body = await requests.read_json(request, self._service.settings)
        asked = json_text.decode(body, self._holds)
        requests.name("owner", asked.owner)
        return body, requests.path_name(request, "name"), asked

    def _lease(self, outcome: RequestOutcome) -> Reply:
        granted = applied(outcome)
        assert isinstance(granted, LockGranted)
        answer = Lease(
            name=granted.name,
            owner=granted.owner,
            mode=LockMode(granted.mode),
            fencing_token=granted.fencing_token,
            expires_at=granted.expires_at_ms,
        )
        return self._service.written(200, answer, outcome, outcome.position)


def _summary(lock: LockStatus) -> LockSummary:
    holder = _holder(lock.holders[0])
    return LockSummary(
        name=lock.name,
        holder=holder,
        fencing_token=holder.fencing_token,
        holder_count=lock.holder_count,
        queue_length=lock.waiter_count,
    )


def _holder(holder: LockHolder) -> Holder:
    return Holder(
        owner=holder.owner,
        mode=LockMode(holder.mode),
        fencing_token=holder.fencing_token,
        expires_at=holder.expires_at_ms,
    )


def endpoints(service: Service) -> list[Endpoint]:
    locks = Locks(service)
    path = "/api/v1/locks"
    tag = "locks"
    name = Parameter(name="name", type=Name, description="The lock.")
    return [
        Endpoint(
            method="POST",
            path=f"{path}/{{name}}/acquire",
            operation="acquireLock",
            summary="Take a lock for a lease, or wait for it",
            tag=tag,
            handler=locks.acquire,
            body=AcquireBody,
            answer=Lease,
            parameters=(name,),
            errors=(
                *BODY_ERRORS,
                *WRITE_ERRORS,
                "LOCK_HELD",
                "REQUEST_ABANDONED",
                "LOCK_UPGRADE_REFUSED",
                "LOCK_QUEUE_FULL",
                "LOCK_TABLE_FULL",
            ),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/{{name}}/renew",
            operation="renewLock",
            summary="Let a lease begin anew",
            tag=tag,
            handler=locks.renew,
            body=HoldBody,
            answer=Lease,
            parameters=(name,),
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "FENCING_TOKEN_STALE"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/{{name}}/release",
            operation="releaseLock",
            summary="Give a lock back",
            tag=tag,
            handler=locks.release,
            body=HoldBody,
            answer=Release,
            parameters=(name,),
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "FENCING_TOKEN_STALE"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/{{name}}/abandon",
            operation="abandonLock",
            summary="Undo a request for a lock, whether it waits, was granted or is still to come",
            tag=tag,
            handler=locks.abandon,
            body=AbandonBody,
            answer=Abandonment,
            parameters=(name,),
            errors=(*BODY_ERRORS, *KEYLESS_WRITE_ERRORS, "IDEMPOTENCY_TABLE_FULL"),
            keyed=True,
            timed=True,
        ),
        Endpoint(
            method="POST",
            path=f"{path}/{{name}}/verify",
            operation="verifyFencingToken",
            summary="Whether a fencing token is that of a lease which is not over",
            tag=tag,
            handler=locks.verify,
            body=VerifyBody,
            answer=Verdict,
            parameters=(name,),
            errors=(*BODY_ERRORS, *READ_ERRORS),
            keyed=True,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=f"{path}/{{name}}",
            operation="getLock",
            summary="Who holds a lock and who waits for it",
            tag=tag,
            handler=locks.show,
            answer=LockView,
            parameters=(name, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=path,
            operation="listLocks",
            summary="Locks that are held, in order of name",
            tag=tag,
            handler=locks.list,
            answer=Page[LockSummary],
            parameters=(*PAGE, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
