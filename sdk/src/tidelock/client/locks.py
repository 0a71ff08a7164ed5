"""Locks, call by call. `Client.lock` keeps one for the time of a block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Literal, Unpack

from tidelock.client.answers import (
    LockAbandonment,
    LockLease,
    LockRelease,
    LockSummary,
    LockVerdict,
    LockView,
    Page,
)
from tidelock.client.attempts import JsonOf, call
from tidelock.client.farewells import FAREWELL_TIMEOUT_MS
from tidelock.client.idempotency import new_key
from tidelock.client.resource import Asking, Listing, Reading, Resource, Writing, part
from tidelock.client.transport import Call, Transport, encode
from tidelock.client.waits import await_turn

LockMode = Literal["EXCLUSIVE", "SHARED"]


class Locks(Resource):
    """Locks."""

    async def acquire(
        self,
        name: str,
        owner: str,
        *,
        ttl_ms: int,
        wait_ms: int = 0,
        mode: LockMode = "EXCLUSIVE",
        **options: Unpack[Writing],
    ) -> LockLease:
        """Take a lock, or wait for it up to `wait_ms`, by which the deadline is put off.

        When this is cancelled, the request is abandoned: its place in the queue is free, and what
        it was granted goes back. Not so under an `idempotency_key` of yours: then the wait goes on,
        you may ask again, and `abandon` gives it up.

        Raises: LockHeldError
        """
        acquisition = Acquisition(
            self._transport, name, owner, ttl_ms=ttl_ms, wait_ms=wait_ms, mode=mode, **options
        )
        return await acquisition.ask()

    async def renew(
        self, name: str, owner: str, fencing_token: int, **options: Unpack[Writing]
    ) -> LockLease:
        """Let the lease begin anew. Raises `FencingTokenStaleError`."""

        def is_mine(lease: LockLease) -> bool:
            return (lease.name, lease.owner, lease.fencing_token) == (name, owner, fencing_token)

        body = {"owner": owner, "fencingToken": fencing_token}
        return await self._post(_path(name, "renew"), body, LockLease, is_mine, **options)

    async def release(
        self, name: str, owner: str, fencing_token: int, **options: Unpack[Writing]
    ) -> LockRelease:
        """Give the lock back. Raises `FencingTokenStaleError`."""
        body = {"owner": owner, "fencingToken": fencing_token}
        return await self._post(_path(name, "release"), body, LockRelease, **options)

    async def abandon(
        self, name: str, owner: str, idempotency_key: str, **options: Unpack[Asking]
    ) -> LockAbandonment:
        """Undo an acquire by the key that it went under, wherever it has got to."""
        body = {"owner": owner, "idempotencyKey": idempotency_key}
        return await self._ask(_path(name, "abandon"), body, LockAbandonment, **options)

    async def verify(self, name: str, fencing_token: int, **options: Unpack[Asking]) -> bool:
        """Return whether the token is that of a lease which runs: for the resource's side."""
        body = {"fencingToken": fencing_token}
        return (await self._ask(_path(name, "verify"), body, LockVerdict, **options)).valid

    async def get(self, name: str, **options: Unpack[Reading]) -> LockView:
        """Return who holds a lock and who waits for it."""
        return await self._get(f"/api/v1/locks/{part(name)}", LockView, **options)

    def list(self, **options: Unpack[Listing]) -> AsyncIterator[LockSummary]:
        """Iterate over the locks that are held."""
        return self._all("/api/v1/locks", Page[LockSummary], {}, **options)


class Acquisition:
    """One request for a lock, from its first attempt until it is answered or given up."""

    def __init__(
        self,
        transport: Transport,
        name: str,
        owner: str,
        *,
        ttl_ms: int,
        wait_ms: int,
        mode: LockMode,
        **options: Unpack[Writing],
    ) -> None:
        given = options.get("idempotency_key")
        self._transport = transport
        self._name = name
        self._owner = owner
        self._key = new_key() if given is None else given
        self._is_ours = given is None
        """Nobody else knows the key, so nobody will come back for the outcome."""
        self._at = options.get("at")
        self._timeout_ms = options.get("timeout_ms", transport.timeout_ms) + wait_ms
        body = {"owner": owner, "ttlMs": ttl_ms, "waitMs": wait_ms, "mode": mode}
        self._call = Call(
            method="POST",
            path=_path(name, "acquire"),
            body=encode(body),
            writes=True,
            waits=wait_ms > 0,
        )

    async def ask(self) -> LockLease:
        """Return the lease.

        Raises: LockHeldError; ClientClosedError: the client was closed meanwhile.
        """
        return await await_turn(self._transport, self._ask, self._give_up)

    async def _ask(self) -> LockLease:
        def is_mine(lease: LockLease) -> bool:
            return (lease.name, lease.owner) == (self._name, self._owner)

        return await call(
            self._transport,
            self._call,
            JsonOf(LockLease, is_mine),
            timeout_ms=self._timeout_ms,
            idempotency_key=self._key,
            at=self._at,
        )

    def _give_up(self) -> None:
        if self._is_ours:
            self.abandon()

    def abandon(self) -> None:
        """Have the cluster undo it, in the background."""
        body = {"owner": self._owner, "idempotencyKey": self._key}
        say(self._transport, _path(self._name, "abandon"), body, LockAbandonment)


def say_released(transport: Transport, name: str, owner: str, fencing_token: int) -> None:
    """Give a lock back in the background."""
    body = {"owner": owner, "fencingToken": fencing_token}
    say(transport, _path(name, "release"), body, LockRelease)


def say(transport: Transport, path: str, body: Mapping[str, object], answer: type[object]) -> None:
    """POST something that may be done twice, in the background."""
    wanted = Call(method="POST", path=path, body=encode(body), hurries=True)
    transport.farewells.say(
        lambda: call(
            transport, wanted, JsonOf(answer), timeout_ms=FAREWELL_TIMEOUT_MS, farewell=True
        )
    )


def _path(name: str, verb: str) -> str:
    return f"/api/v1/locks/{part(name)}/{verb}"
