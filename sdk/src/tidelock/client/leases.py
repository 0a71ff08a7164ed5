"""Leases that renew themselves, and that know when they can no longer be trusted.

A holder measures its lease by its own monotonic clock from the moment it *asked*, which is before
the grant: so it takes the lease for over before the cluster does, never after. That does not help a
process that is stopped between looking and acting, nor is a suspended machine's clock sure to run.
What must never happen twice is protected by `fencing_token`, which the resource checks.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Final, Self

from tidelock.client.idempotency import new_key
from tidelock.client.locks import Acquisition, LockMode, Locks, say_released
from tidelock.client.transport import Transport
from tidelock.errors import (
    ClientClosedError,
    FencingTokenStaleError,
    LockLostError,
    OutcomeUnknownError,
    TidelockError,
)

_RENEWALS_A_LEASE: Final = 3
_RELEASE_TIMEOUT_MS: Final = 2_000
_LEAST_PAUSE_S: Final = 0.02


class Lock:
    """A lock for the time of an `async with` block, renewed at a third of its lease.

    `lost` is set as soon as the lease is over or can no longer be trusted. The end of the block
    then raises `LockLostError`, unless another exception ends it.

    Whatever ends the block, or its beginning, the lock is given back: when the acquisition is
    cancelled or its outcome stays unknown, the cluster is told in the background that nobody wants
    it any more. What nobody can be told of ends with `wait_ms` and with the lease.
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
        self._transport = transport
        self._locks = Locks(transport)
        self.name = name
        self.owner = new_key() if owner is None else owner
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
        try:
            await self._acquire()
        except BaseException:
            self.quit()
            raise
        self._renewing = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lost = self.remaining_ms == 0
        try:
            lost |= not await self._release()
        except asyncio.CancelledError:
            self.quit()
            raise
        self._trusted_until = 0.0
        if lost:
            self.lost.set()
            if error is None:
                raise LockLostError(f"the lease of lock {self.name!r} ended before its block")

    async def _release(self) -> bool:
        """Return whether the lock was still this one's, as far as anybody could say."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        try:
            await self._locks.release(
                self.name, self.owner, self.fencing_token, timeout_ms=_RELEASE_TIMEOUT_MS
            )
        except FencingTokenStaleError:
            return False
        except TidelockError:
            # Nobody could be told so far. Others may have it as soon as somebody can.
            say_released(self._transport, self.name, self.owner, self.fencing_token)
        return True

    def quit(self) -> None:
        """Leave without waiting for anything: what is held is given back in the background."""
        if self._renewing is not None:
            self._renewing.cancel()
        self._trusted_until = 0.0
        if self._fencing_token is not None:
            say_released(self._transport, self.name, self.owner, self._fencing_token)

    async def _acquire(self) -> None:
        asked_at = time.monotonic()
        acquisition = Acquisition(
            self._transport,
            self.name,
            self.owner,
            ttl_ms=self._ttl_ms,
            wait_ms=self._wait_ms,
            mode=self._mode,
        )
        try:
            lease = await acquisition.ask()
        except OutcomeUnknownError:
            # Its key is known to nobody who could ask again.
            acquisition.abandon()
            raise
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
        try:
            await self._renew_again_and_again()
        except Exception:
            self.lost.set()
            raise
        self.lost.set()

    async def _renew_again_and_again(self) -> None:
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
            except ClientClosedError:
                pause_s = self._ttl_ms / 1000
            except TidelockError:
                # The next one may get through, while there is time for it.
                pause_s = _LEAST_PAUSE_S
