"""Locks: leases that renew themselves, and that know when they can no longer be trusted.

A holder measures its lease by its own monotonic clock from the moment it *asked*, which is before
the grant: so it takes the lease for over before the cluster does, never after. That does not help a
process that is stopped between looking and acting, nor is a suspended machine's clock sure to run.
What must never happen twice is protected by `fencing_token`, which the resource checks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Literal, Self, Unpack

from tidelock.client.answers import LockLease, LockRelease, LockSummary, LockVerdict, LockView, Page
from tidelock.client.idempotency import new_key
from tidelock.client.resources import Reading, Resource, Writing, part
from tidelock.client.transport import Call, Transport, encode
from tidelock.errors import FencingTokenStaleError, LockLostError, TidelockError

LockMode = Literal["EXCLUSIVE", "SHARED"]

_RENEWALS_A_LEASE: Final = 3
_RELEASE_TIMEOUT_MS: Final = 2_000
_LEAST_PAUSE_S: Final = 0.02


class Locks(Resource):
    """Locks, call by call. `Client.lock` keeps one for the time of a block."""

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

        Raises: LockHeldError
        """
        body = {"owner": owner, "ttlMs": ttl_ms, "waitMs": wait_ms, "mode": mode}
        call = Call(
            method="POST",
            path=f"/api/v1/locks/{part(name)}/acquire",
            body=encode(body),
            writes=True,
            waits=wait_ms > 0,
        )
        patience_ms = options.get("timeout_ms", self._transport.timeout_ms)
        return await self._transport.call(
            call,
            LockLease,
            timeout_ms=patience_ms + wait_ms,
            idempotency_key=options.get("idempotency_key"),
        )

    async def renew(
        self, name: str, owner: str, fencing_token: int, **options: Unpack[Writing]
    ) -> LockLease:
        """Let the lease begin anew. Raises `FencingTokenStaleError`."""
        body = {"owner": owner, "fencingToken": fencing_token}
        path = f"/api/v1/locks/{part(name)}/renew"
        return await self._post(path, body, LockLease, **options)

    async def release(
        self, name: str, owner: str, fencing_token: int, **options: Unpack[Writing]
    ) -> LockRelease:
        """Give the lock back. Raises `FencingTokenStaleError`."""
        body = {"owner": owner, "fencingToken": fencing_token}
        path = f"/api/v1/locks/{part(name)}/release"
        return await self._post(path, body, LockRelease, **options)

    async def verify(self, name: str, fencing_token: int, **options: Unpack[Reading]) -> bool:
        """Return whether the token is that of a lease which runs: for the resource's side."""
        path = f"/api/v1/locks/{part(name)}/verify"
        body = {"fencingToken": fencing_token}
        return (await self._ask(path, body, LockVerdict, **options)).valid

    async def get(self, name: str, **options: Unpack[Reading]) -> LockView:
        """Return who holds a lock and who waits for it."""
        return await self._get(f"/api/v1/locks/{part(name)}", LockView, **options)

    def list(self, **options: Unpack[Reading]) -> AsyncIterator[LockSummary]:
        """Iterate over the locks that are held."""
        return self._all("/api/v1/locks", Page[LockSummary], {}, **options)


class Lock:
    """A lock for the time of an `async with` block, renewed at a third of its lease.

    `lost` is set as soon as the lease is over or can no longer be trusted. The end of the block
    then raises `LockLostError`, unless another exception ends it. When an acquisition is
    cancelled or ends in `OutcomeUnknownError`, its place in the queue ends with `wait_ms`, and what
    may have been granted with its lease.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        *,
        ttl_ms: int,
        wait_ms: int,
        mode: LockMode,
        owner: str | None,
    ) -> None:
        self._locks = Locks(transport)
        self.name = name
        self.owner = owner or new_key()
        self.lost = asyncio.Event()
        self._ttl_ms = ttl_ms
        self._wait_ms = wait_ms
        self._mode: LockMode = mode
        self._fencing_token: int | None = None
        self._trusted_until = 0.0
        self._renewing: asyncio.Task[None] | None = None

    @property
    def fencing_token(self) -> int:
        """Greater than that of every earlier grant; to be sent along to the resource.

        Raises:
            LockLostError: the lock was never held.
        """
        if self._fencing_token is None:
            raise LockLostError(f"lock {self.name!r} is not held; enter its block first")
        return self._fencing_token

    @property
    def remaining_ms(self) -> int:
        """How long the lease can still be trusted; 0 when it cannot."""
        if self.lost.is_set():
            return 0
        return max(0, int((self._trusted_until - time.monotonic()) * 1000))

    def check(self) -> None:
        """Raise `LockLostError` unless the lease can still be trusted."""
        if self.remaining_ms == 0:
            raise LockLostError(
                f"the lease of lock {self.name!r} is over; its work may be another's"
            )

    async def __aenter__(self) -> Self:
        if self._fencing_token is not None:
            raise RuntimeError(f"lock {self.name!r} was used for a block; ask for another one")
        await self._acquire()
        self._renewing = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lost = self.remaining_ms == 0
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        try:
            await self._locks.release(
                self.name, self.owner, self.fencing_token, timeout_ms=_RELEASE_TIMEOUT_MS
            )
        except FencingTokenStaleError:
            lost = True
        except TidelockError:
            # Nobody could be told; the lease ends by itself.
            pass
        self._trusted_until = 0.0
        if lost:
            self.lost.set()
            if error is None:
                raise LockLostError(f"the lease of lock {self.name!r} ended before its block")

    async def _acquire(self) -> None:
        asked_at = time.monotonic()
        lease = await self._locks.acquire(
            self.name, self.owner, ttl_ms=self._ttl_ms, wait_ms=self._wait_ms, mode=self._mode
        )
        self._fencing_token = lease.fencing_token
        self._trusted_until = asked_at + self._ttl_ms / 1000
        if self.remaining_ms < self._ttl_ms * (_RENEWALS_A_LEASE - 1) // _RENEWALS_A_LEASE:
            # It was waited for: the grant is younger than the question, but nobody here knows how
            # much. A renewal says from when on the lease runs.
            try:
                await self._renew(self._ttl_ms)
            except FencingTokenStaleError as error:
                self.lost.set()
                raise LockLostError(
                    f"the lease of lock {self.name!r} ended before its grant arrived"
                ) from error

    async def _renew(self, timeout_ms: int) -> None:
        asked_at = time.monotonic()
        await self._locks.renew(
            self.name, self.owner, self.fencing_token, timeout_ms=max(1, timeout_ms)
        )
        self._trusted_until = asked_at + self._ttl_ms / 1000

    async def _keep(self) -> None:
        """Renew until the lease is lost."""
        regular_s = self._ttl_ms / 1000 / _RENEWALS_A_LEASE
        pause_s = regular_s
        while True:
            await asyncio.sleep(min(pause_s, self.remaining_ms / 1000))
            if self.remaining_ms == 0:
                break
            try:
                await self._renew(min(self.remaining_ms, int(regular_s * 1000)))
                pause_s = regular_s
            except FencingTokenStaleError:
                break
            except TidelockError:
                # The next one may get through, while there is time for it.
                pause_s = _LEAST_PAUSE_S
        self.lost.set()
