"""One run of a block: from what it finds bound to what it leaves behind.

Written once, as coroutines over `Calls`: `with` drives them, `async with` awaits them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Final

import msgspec

from tidelock.calls import Calls
from tidelock.client import Client
from tidelock.client.answers import BranchMode
from tidelock.errors import BranchUnfinishedError
from tidelock.transaction.context import Binding, Rebinding, current
from tidelock.transaction.ending import Standing, end
from tidelock.transaction.errors import (
    RollbackFailedError,
    RollbackOnlyError,
    TransactionRolledBackError,
)
from tidelock.transaction.handle import Role, TakeBack, Transaction
from tidelock.transaction.hooks import TransactionHooks
from tidelock.transaction.propagation import Propagation, Step, step_of
from tidelock.transaction.rollback_rules import RollbackRules
from tidelock.transaction.shielding import Protect
from tidelock.transaction.verdicts import (
    after_commit,
    after_rollback,
    is_committed,
    was_rolled_back,
)

_log: Final = logging.getLogger("tidelock.transaction")

_LEAST_MS: Final = 5_000
"""How long an end is tried for at least, beyond what it waits for anyway."""

_REASON: Final = 300
"""Characters of a reason that are told."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked of a block."""

    name: str
    timeout_ms: int
    propagation: Propagation
    rules: RollbackRules
    hooks: Sequence[TransactionHooks]
    mode: BranchMode | None
    end_wait_ms: int
    clock_participant: str | None
    xid: str | None = None


class Scope:
    """One run of a block. `enter` once, then `leave` once."""

    def __init__(self, options: Options, calls: Calls, protect: Protect) -> None:
        self._options = options
        self._calls = calls
        self._protect = protect
        self._transaction = Transaction(name=options.name)
        self._rebinding: Rebinding | None = None
        self._pid = os.getpid()

    async def enter(self) -> Transaction:
        """Begin, join, or see that there is none.

        Raises: what `tidelock.transaction` says of the beginning of its block.
        """
        before = current()
        step = step_of(self._options.propagation, before, self._options.name or "this block")
        if step is Step.BEGIN:
            await self._begin()
        elif step is Step.JOIN:
            assert before is not None
            self._join(before)
        else:
            self._go_without(before)
        return self._transaction

    async def leave(self, error: BaseException | None) -> None:
        """End what this block began, and bind the code to what it was bound to before.

        It returns when `error`, if any, is to be raised as it is.
        """
        transaction = self._transaction
        if os.getpid() != self._pid:
            # A child that was forked within the block: its parent is still in it.
            self._unbind()
            return
        if transaction.role is Role.LAUNCHER:
            await self._end(error)
            return
        self._unbind()
        reason = transaction._rollback_reason
        if error is None and reason is not None:
            raise RollbackOnlyError(
                f"transaction {transaction.xid} must be rolled back"
                + (f": {reason}" if reason else ""),
                transaction.xid,
                transaction.status,
            )

    # --- entering

    def _join(self, before: Binding) -> None:
        assert before.xid is not None
        outer = before.transaction
        launched = None if outer is None else outer._launched or outer
        if launched is not None and launched.role is not Role.LAUNCHER:
            launched = None
        transaction = self._transaction = Transaction(
            xid=before.xid,
            name="" if launched is None else launched.name,
            role=Role.PARTICIPANT,
            launched=launched,
        )
        self._bind(
            Binding(
                xid=before.xid,
                role=Role.PARTICIPANT,
                global_lock=before.global_lock,
                transaction=transaction,
            )
        )

    def _go_without(self, before: Binding | None) -> None:
        if before is not None and before.xid is not None:
            self._bind(Binding(global_lock=True) if before.global_lock else None)

    async def _begin(self) -> None:
        options = self._options
        transaction = self._transaction = Transaction(
            name=options.name, role=Role.LAUNCHER, timeout_ms=options.timeout_ms
        )
        for hooks in options.hooks:
            transaction.add_hooks(hooks)
        await self._call_hooks("before_begin")
        try:
            await self._protect(self._ask_to_begin())
            self._bind(Binding(xid=transaction.xid, role=Role.LAUNCHER, transaction=transaction))
            await self._record("TRANSACTION_BEGIN")
            await self._call_hooks("after_begin")
        except BaseException as error:
            # Also when the task was cancelled just as it began: nobody else knows the xid.
            if transaction.xid:
                transaction._mark(_words(error), by_participant=False)
                await self._end(error)
            raise

    async def _ask_to_begin(self) -> None:
        options = self._options
        begun = await self._calls(
            lambda client: client.transactions.begin(
                options.name or None,
                transaction_timeout_ms=options.timeout_ms,
                xid=options.xid,
                mode=options.mode,
            )
        )
        self._transaction.xid = begun.xid
        self._transaction.status = begun.status

    # --- leaving

    async def _end(self, error: BaseException | None) -> None:
        transaction = self._transaction
        try:
            commit, error_of_hooks = await self._make_up_its_mind(error)
            if not commit:
                await self._call_hooks_quietly("before_rollback")
        finally:
            self._unbind()
        failure: BaseException | None = None
        try:
            await self._decide(error_of_hooks or error, commit=commit)
        except BaseException as raised:
            failure = raised
        await self._record("TRANSACTION_END")
        committed = is_committed(transaction.status)
        if committed is not None:
            await self._call_hooks_quietly("after_commit" if committed else "after_rollback")
        await self._call_hooks_quietly("after_completion")
        self._raise(error, error_of_hooks, failure, committing=commit)

    async def _make_up_its_mind(
        self, error: BaseException | None
    ) -> tuple[bool, BaseException | None]:
        """Return whether to commit, and what a hook raised that does not want it."""
        transaction = self._transaction
        rolls_back = error is not None and self._options.rules.roll_back(error)
        if rolls_back or transaction.rollback_only:
            return False, None
        try:
            await self._call_hooks("before_commit")
        except BaseException as raised:
            return False, raised
        return not transaction.rollback_only, None

    async def _decide(self, error: BaseException | None, *, commit: bool) -> None:
        """Have it decided. Raises: what is to be raised in the place of what the block did."""
        transaction, wait_ms = self._transaction, self._options.end_wait_ms
        if commit:
            left_ms = transaction.remaining_ms or 0
            standing = await self._protect(
                # Beyond its timeout: then the cluster says that it was too late.
                self._ask_to_commit(left_ms + _LEAST_MS, wait_ms)
            )
            after_commit(transaction.xid, standing)
            return
        interrupted = error is not None and not isinstance(error, Exception)
        standing = await self._protect(
            self._ask(
                commit=False,
                budget_ms=_LEAST_MS if interrupted else wait_ms + _LEAST_MS,
                wait_ms=0 if interrupted else wait_ms,
                reason=_line(transaction._rollback_reason or "") or _words(error),
            )
        )
        after_rollback(transaction.xid, standing)

    async def _ask_to_commit(self, budget_ms: int, wait_ms: int) -> Standing:
        try:
            return await self._ask(commit=True, budget_ms=budget_ms, wait_ms=wait_ms)
        except BranchUnfinishedError as error:
            standing = await self._ask(
                commit=False,
                budget_ms=wait_ms + _LEAST_MS,
                wait_ms=wait_ms,
                reason="a branch has not reported how its work ended",
            )
            standing.problem = error
            return standing

    async def _ask(
        self, *, commit: bool, budget_ms: int, wait_ms: int, reason: str = ""
    ) -> Standing:
        """Have the transaction decided, in the application's own thread."""
        transaction = self._transaction
        done = transaction._take_done()
        standing = await self._calls(
            lambda client: end(
                client,
                transaction.xid,
                commit=commit,
                budget_ms=budget_ms,
                wait_ms=wait_ms,
                reason=reason,
                branches_done=tuple(done),
            )
        )
        transaction.status, transaction.reason = standing.status, standing.reason
        if standing.problem is not None and was_rolled_back(standing.problem):
            for branch_id, take_back in done.items():
                await self._take_back(branch_id, take_back)
        return standing

    async def _take_back(self, branch_id: int, take_back: TakeBack) -> None:
        """Undo what was done when the transaction was over, and its guards may have been gone."""

        async def undo(_: Client) -> None:
            await take_back()

        try:
            await self._calls(undo)
        except Exception:
            _log.exception("branch %d of %s was done too late, and is not undone",
                           branch_id, self._transaction.xid)  # fmt: skip

    def _raise(
        self,
        error: BaseException | None,
        error_of_hooks: BaseException | None,
        failure: BaseException | None,
        *,
        committing: bool,
    ) -> None:
        """Raise what the block ends with; return when that is what it raised itself, or nothing."""
        transaction = self._transaction
        cause = error_of_hooks or error
        if failure is not None and not isinstance(failure, Exception):
            raise failure
        if cause is not None and not isinstance(cause, Exception):
            if failure is not None:
                _log.error("the end of %s failed as its block was interrupted: %s",
                           transaction.xid, failure)  # fmt: skip
        elif failure is not None:
            if committing or cause is None or isinstance(failure, RollbackFailedError):
                raise failure from cause or failure.__cause__
            # Nobody else decides, so without a word from here its timeout rolls it back.
            cause.add_note(f"The rollback is not confirmed: {failure}")
            _log.warning("%s", failure)
        if error_of_hooks is not None:
            raise error_of_hooks
        if error is None and not committing and transaction._marked_by_participant:
            raise TransactionRolledBackError(
                f"transaction {transaction.xid} was rolled back, as a participant asked for"
                + (f": {transaction._rollback_reason}" if transaction._rollback_reason else ""),
                transaction.xid,
                transaction.status,
            )

    # --- hooks, clocks, bindings

    async def _call_hooks(self, method: str) -> None:
        for hooks in list(self._transaction._hooks):
            waiting = getattr(hooks, method)(self._transaction)
            if waiting is not None:
                await waiting

    async def _call_hooks_quietly(self, method: str) -> None:
        for hooks in list(self._transaction._hooks):
            try:
                waiting = getattr(hooks, method)(self._transaction)
                if waiting is not None:
                    await waiting
            except Exception:
                _log.exception("%s of %r failed; %s stays as it is decided",
                               method, hooks, self._transaction.xid)  # fmt: skip

    async def _record(self, event_type: str) -> None:
        """Tick the participant's clock, when that was asked for. It never fails a transaction."""
        node_id, transaction = self._options.clock_participant, self._transaction
        if node_id is None:
            return
        data = {"xid": transaction.xid, "name": transaction.name, "status": transaction.status}
        try:
            await self._calls(
                lambda client: client.events.record(event_type, data, node_id=node_id)
            )
        except Exception as error:
            _log.warning("%s of %s was not recorded: %s", event_type, transaction.xid, error)

    def _bind(self, new: Binding | None) -> None:
        self._rebinding = Rebinding(new)

    def _unbind(self) -> None:
        rebinding, self._rebinding = self._rebinding, None
        if rebinding is not None:
            rebinding.undo()


def _words(error: BaseException | None) -> str:
    """Return why the cluster is told to roll back, of what the block raised."""
    return "" if error is None else _line(f"{type(error).__name__}: {error}")


def _line(text: str) -> str:
    """Return a text as the cluster keeps reasons: one line of printable characters."""
    return "".join(each if each.isprintable() else " " for each in text[:_REASON]).strip()
