"""A global transaction as the code within a block sees it."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Awaitable, Callable

from tidelock.transaction.hooks import TransactionHooks

TakeBack = Callable[[], Awaitable[None]]
"""Undoes a branch of this process."""


class Role(enum.Enum):
    """Who ends the transaction."""

    LAUNCHER = "LAUNCHER"
    """This code: it began it."""
    PARTICIPANT = "PARTICIPANT"
    """Somebody else: this code was called within it, and only joins."""


class Transaction:
    """What `with tidelock.transaction() as transaction` gives.

    It may be looked at after the block, too. It belongs to the thread or task of the block; others
    may call `set_rollback_only`.
    """

    def __init__(
        self,
        *,
        xid: str = "",
        name: str = "",
        role: Role | None = None,
        timeout_ms: int = 0,
        launched: Transaction | None = None,
    ) -> None:
        """For this package. `launched` is what the launcher has, when it is in this process."""
        self.xid = xid
        """Its name in the cluster. Empty when the block runs without a transaction."""
        self.name = name
        """Of the launcher's block; empty for who joins from another process."""
        self.role = role
        """None when the block runs without a transaction."""
        self.timeout_ms = timeout_ms
        """The whole time until it is rolled back undecided; 0 when that is not known here."""
        self.status = "BEGIN" if xid else ""
        """Where it stood when this code last heard of it: a `TransactionStatus`."""
        self.reason = ""
        """Why it was decided so; empty when nobody said."""
        self._launched = launched
        self._hooks: list[TransactionHooks] = []
        self._began_at = time.monotonic()
        self._rollback_reason: str | None = None
        self._marked_by_participant = False
        self._lock = threading.Lock()
        self._done: dict[int, TakeBack] = {}
        """Branches of this process that are done, to be told with the decision."""
        self._is_told = False

    def __repr__(self) -> str:
        role = "none" if self.role is None else self.role.value
        return f"<Transaction {self.xid or 'none'} {self.name!r} {role} {self.status}>"

    @property
    def is_active(self) -> bool:
        """Whether there is a transaction at all, and nobody here knows that it is decided."""
        return (self._launched or self).status == "BEGIN"

    @property
    def remaining_ms(self) -> int | None:
        """How much of the timeout is left, counted from before it began; None: not known here."""
        of = self._launched or self
        if not of.timeout_ms:
            return None
        passed_ms = int((time.monotonic() - of._began_at) * 1000)
        return max(0, of.timeout_ms - passed_ms)

    @property
    def rollback_only(self) -> bool:
        """Whether it can only be rolled back, as far as is known here."""
        return (self._launched or self)._rollback_reason is not None or (
            self._rollback_reason is not None
        )

    def set_rollback_only(self, reason: str = "") -> None:
        """Have the transaction rolled back when the launcher's block ends, whatever else happens.

        The launcher's block then ends quietly when it asked for it itself, and with
        `TransactionRolledBackError` when a participant did. Where the launcher is another process,
        the participant's block ends with `RollbackOnlyError`, which tells it.

        Raises:
            RuntimeError: there is no transaction, or it has been decided.
        """
        if not self.is_active:
            raise RuntimeError(f"{self!r} cannot be rolled back here: nothing is under way")
        if self._launched is not None:
            self._launched._mark(reason, by_participant=True)
        else:
            self._mark(reason, by_participant=False)

    def add_hooks(self, hooks: TransactionHooks) -> None:
        """Have something called at the steps that are still to come. Launchers only.

        Raises:
            RuntimeError: this code does not end the transaction.
        """
        if self.role is not Role.LAUNCHER:
            raise RuntimeError("hooks belong to the launcher: what ends the transaction calls them")
        self._hooks.append(hooks)

    def _take_done(self) -> dict[int, TakeBack]:
        """Return the branches that are to be reported with the decision; no more are added."""
        with self._lock:
            self._is_told = True
            return self._done

    def _mark(self, reason: str, *, by_participant: bool) -> None:
        if self._rollback_reason is None:
            self._rollback_reason = reason
            self._marked_by_participant = by_participant


def tells_with_decision(
    transaction: Transaction | None, branch_id: int, take_back: TakeBack
) -> bool:
    """Have a branch reported as done together with the decision, which saves a call.

    `take_back` is awaited on the application's loop when the transaction was over and rolled back
    before: then nobody else undoes what was done too late.

    False: it must be reported by itself, for another process decides, or the decision is on its
    way.
    """
    of = None if transaction is None else transaction._launched or transaction
    if of is None or of.role is not Role.LAUNCHER:
        return False
    with of._lock:
        if of._is_told:
            return False
        of._done[branch_id] = take_back
    return True
