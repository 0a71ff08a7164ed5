"""Branches of global transactions, call by call, for who manages the resources that they change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Unpack

from msgspec import structs

from tidelock.client.answers import (
    BranchMode,
    BranchState,
    FenceAnswer,
    FenceVerdict,
    RowLockMode,
    RowsGivenBack,
    RowsOfBranch,
)
from tidelock.client.attempts import JsonOf, call
from tidelock.client.farewells import FAREWELL_TIMEOUT_MS
from tidelock.client.idempotency import new_key
from tidelock.client.resource import Resource, Writing
from tidelock.client.row_keys import LockKeys, RowsToLock, rows_of
from tidelock.client.transactions import is_of, path_of
from tidelock.client.transport import Call, encode
from tidelock.client.waits import await_turn

T = TypeVar("T")

ReportStatus = Literal["PHASE_ONE_DONE", "PHASE_ONE_FAILED", "PHASE_ONE_READ_ONLY", "WITHDRAWN"]
"""How the work of a branch ended. READ_ONLY: it changed nothing, and is left out of phase two.
WITHDRAWN: its unit is run again as another branch, and this one does not count."""

FenceStep = Literal["TRY", "CONFIRM", "CANCEL"]
FencePhase = Literal["ENTER", "DONE"]


class Branches(Resource):
    """Branches."""

    async def register(
        self,
        xid: str,
        mode: BranchMode,
        resource_id: str,
        *,
        lock_keys: LockKeys | None = None,
        lock_mode: RowLockMode | None = None,
        locks: Sequence[RowsToLock] = (),
        wait_ms: int = 0,
        application_id: str | None = None,
        unit_id: str | None = None,
        session_id: int | None = None,
        application_data: Any = None,
        commit_url: str | None = None,
        rollback_url: str | None = None,
        **options: Unpack[Writing],
    ) -> BranchState:
        """Let a branch take part, with all its row locks or not at all.

        It waits for the rows up to `wait_ms`, by which the deadline is put off. `locks` is for rows
        of both modes; `lock_mode` is that of `lock_keys`, EXCLUSIVE unless given. `session_id` is
        that of the resource manager's channel, which LCN needs, and XA unless both URLs are given.
        `application_data`, any JSON, comes back with each call of the branch. An empty URL: there
        is nothing to call, and it counts as done.

        When this is cancelled, or the client closed, the wait is given up, and a branch that was
        registered all the same is withdrawn. Not so under an `idempotency_key` of yours: then the
        wait goes on, and you may ask again.

        Raises:
            LockConflictError: a row is locked, and was until the wait was over.
            DeadlockError: this transaction is the one to give way; roll it back.
            TransactionNotFoundError, TransactionNotActiveError
            ChannelSessionEndedError: register the resource manager again, then the branch.
        """
        callbacks = {"commit": commit_url, "rollback": rollback_url}
        given = {name: url for name, url in callbacks.items() if url is not None}
        body = {
            "mode": mode,
            "resourceId": resource_id,
            **rows_of(lock_keys, lock_mode, locks),
            "waitMs": wait_ms,
            "applicationId": application_id,
            "unitId": unit_id,
            "sessionId": session_id,
            "applicationData": application_data,
            "callbacks": given or None,
        }
        path = f"{path_of(xid)}/branches"
        read = JsonOf(BranchState, is_of(xid))
        return await self._in_turn(path, body, read, wait_ms, self._withdraw, **options)

    async def lock(
        self,
        xid: str,
        branch_id: int,
        *,
        lock_keys: LockKeys | None = None,
        lock_mode: RowLockMode | None = None,
        locks: Sequence[RowsToLock] = (),
        wait_ms: int = 0,
        **options: Unpack[Writing],
    ) -> RowsOfBranch:
        """Lock more rows for a branch that has not reported, all or none.

        It waits for them up to `wait_ms`, by which the deadline is put off. When this is cancelled,
        the wait is given up; what it was granted stays with the branch, and ends with it.

        Raises:
            LockConflictError: a row is locked, and was until the wait was over.
            DeadlockError: this transaction is the one to give way; roll it back.
            TransactionNotFoundError, TransactionNotActiveError, BranchNotFoundError
            BranchStatusFixedError: the branch has reported.
        """
        body = {**rows_of(lock_keys, lock_mode, locks), "waitMs": wait_ms}
        path = f"{_path(xid, branch_id)}/locks"
        read = JsonOf(RowsOfBranch, _is_of(xid, branch_id))
        return await self._in_turn(path, body, read, wait_ms, _nothing, **options)

    async def unlock(
        self,
        xid: str,
        branch_id: int,
        *,
        lock_keys: LockKeys | None = None,
        lock_mode: RowLockMode | None = None,
        locks: Sequence[RowsToLock] = (),
        **options: Unpack[Writing],
    ) -> RowsGivenBack:
        """Give back rows that a branch locked since the savepoint that it went back to.

        Their mode does not matter.

        Raises:
            TransactionNotFoundError, TransactionNotActiveError, BranchNotFoundError
            BranchStatusFixedError: the branch has reported.
        """
        body = rows_of(lock_keys, lock_mode, locks)
        path = f"{_path(xid, branch_id)}/locks"
        return await self._write("DELETE", path, body, RowsGivenBack, **options)

    async def report(
        self,
        xid: str,
        branch_id: int,
        status: ReportStatus,
        *,
        application_data: Any = None,
        error_type: str = "",
        error_message: str | None = None,
        error_at: int | None = None,
        **options: Unpack[Writing],
    ) -> BranchState:
        """Say how a branch's work ended; the same again changes nothing.

        `application_data` replaces what the registration brought. An error is one when it has a
        message (of up to 1,000 characters, its type of 100); `error_at` is now unless given,
        milliseconds since the epoch.

        Raises:
            TransactionNotFoundError, TransactionNotActiveError, BranchNotFoundError
            BranchStatusFixedError: the branch cannot change so any more.
        """
        error: dict[str, Any] | None = None
        if error_message is not None:
            error = {"type": error_type, "message": error_message}
            if error_at is not None:
                error["at"] = error_at
        body = {"status": status, "applicationData": application_data, "error": error}
        path = f"{_path(xid, branch_id)}/report"
        return await self._post(path, body, BranchState, _is_of(xid, branch_id), **options)

    async def fence(
        self,
        xid: str,
        branch_id: int,
        step: FenceStep,
        phase: FencePhase,
        **options: Unpack[Writing],
    ) -> FenceVerdict:
        """Ask whether a step of TCC may run (ENTER), or say that it has (DONE).

        For resources without a database: the cluster orders the steps and tells a repeated one from
        a first one, but not together with what they do. So a step is done at least once.

        Raises:
            BranchNotTriedError: there is no Try yet to confirm; ask again later.
            TransactionNotFoundError, BranchNotFoundError
        """
        body = {"step": step, "phase": phase}
        path = f"{_path(xid, branch_id)}/fence"
        return (await self._post(path, body, FenceAnswer, **options)).verdict

    async def _in_turn(
        self,
        path: str,
        body: Mapping[str, Any],
        read: JsonOf[T],
        wait_ms: int,
        undo: Callable[[T], Awaitable[object]],
        **options: Unpack[Writing],
    ) -> T:
        """POST what may wait for rows. Who leaves before the answer gives up the wait, and what it
        came to is undone.
        """
        transport = self._transport
        wanted = Call(method="POST", path=path, body=encode(body), writes=True, waits=wait_ms > 0)
        asked = self._put_off(wait_ms, options)
        # Nobody else knows a key that is made here, so nobody would come back for the outcome.
        is_ours = "idempotency_key" not in asked
        key = asked.setdefault("idempotency_key", new_key())

        async def give_up() -> None:
            # The same request with a short deadline ends the wait, and says what it came to.
            last = structs.replace(wanted, waits=False, hurries=True)
            await undo(await self._say(last, read, key))

        def leave() -> None:
            if is_ours:
                transport.farewells.say(give_up)

        return await await_turn(transport, lambda: call(transport, wanted, read, **asked), leave)

    async def _withdraw(self, registered: BranchState) -> None:
        path = f"{_path(registered.xid, registered.branch_id)}/report"
        body = encode({"status": "WITHDRAWN"})
        wanted = Call(method="POST", path=path, body=body, writes=True, hurries=True)
        await self._say(wanted, JsonOf(BranchState), new_key())

    async def _say(self, wanted: Call, read: JsonOf[T], key: str) -> T:
        return await call(
            self._transport,
            wanted,
            read,
            timeout_ms=FAREWELL_TIMEOUT_MS,
            idempotency_key=key,
            farewell=True,
        )


async def _nothing(_: object) -> None:
    """What is granted to a branch stays with it."""


def _path(xid: str, branch_id: int) -> str:
    return f"{path_of(xid)}/branches/{branch_id}"


def _is_of(xid: str, branch_id: int) -> Callable[[BranchState | RowsOfBranch], bool]:
    """Return the check of an answer that is about this branch."""
    return lambda answer: (answer.xid, answer.branch_id) == (xid, branch_id)
