"""The moments at which a process that takes part in transactions may die, by name.

Before and after every write there is one::

    reached("at.before-register")

In production this compares with None and goes on. `TIDELOCK_CRASH_AT=at.before-register` in the
environment of a process has it killed there, as by `kill -9`; `at.before-register:3` when it comes
there for the third time. A test that is in the process itself, or that breaks something else in
that moment (a connection, the node that leads), watches with `watched`.

Every name stands in `POINTS`, so that a test can go through them all. A new one gets a row there:
names in the code and rows are compared.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Final

VARIABLE: Final = "TIDELOCK_CRASH_AT"

POINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # The runtime of resource managers (tidelock.rm)
        "rm.before-register": "A connection is open; the session is not asked for or taken along.",
        "rm.after-register": "The cluster has the session, and nobody here knows its number yet.",
        "rm.before-call": "The coordinator asks for a branch, and nothing of it is done.",
        "rm.after-call": "The branch is committed, rolled back or cleaned; nobody was told.",
        "rm.after-answer": "The answer is on its way.",
        "rm.before-lost": "The session has ended, and what ends with it is still there.",
        "rm.after-lost": "What ended with the session is gone; the new one is not used yet.",
        "rm.before-leave": "No call is under way any more; the session waits to be ended.",
        # Branches behind the barrier (tidelock.barrier), the work of a message included
        "barrier.before-rows": "The local transaction has begun, without the barrier's rows.",
        "barrier.after-rows": "It has them; whether the business is to be run is known.",
        "barrier.before-local-commit": "The business is done, and not committed.",
        "barrier.after-local-commit": "It is committed; nobody was told.",
        # Steps of sagas behind it (tidelock.saga)
        "saga.before-result-row": "The step is done or has refused; its answer is not kept.",
        "saga.after-result-row": "Its answer is kept, in the same local transaction.",
        # Messages (tidelock.messages)
        "message.before-prepare": "A two-phase message is about to be prepared.",
        "message.after-prepare": "The cluster keeps it; the work is not begun.",
        "message.before-submit": "The work is committed; the cluster does not know.",
        "message.after-submit": "The cluster delivers the message.",
        "message.before-abort": "The work has failed; the cluster still waits for it.",
        "message.after-abort": "The cluster has given the message up.",
        "outbox.before-row": "The work is in the local transaction, its message is not.",
        "outbox.after-row": "The message is there as well, and not committed.",
        "outbox.before-claim": "Messages are due; no relay has taken them.",
        "outbox.after-claim": "This relay has taken them.",
        "outbox.before-publish": "One of them is about to be published.",
        "outbox.after-publish": "It is published; its row does not say so.",
        "outbox.after-settle": "Its row says what publishing it came to.",
        "outbox.before-acknowledge": "Its receiver says that it is done; its row does not.",
        "outbox.after-acknowledge": "Its row says so, and its broker would say it again.",
        "inbox.before-row": "A message has arrived, and nothing is done.",
        "inbox.after-row": "It is noted in the local transaction, and not done.",
        "inbox.before-local-commit": "It is done, and not committed.",
        "inbox.after-local-commit": "It is committed, and not acknowledged.",
        # AT (tidelock.at)
        "at.before-register": "Rows are changed in the local transaction; nobody knows of it.",
        "at.after-register": "The branch is registered and its rows are locked.",
        "at.before-undo-row": "The local transaction has no undo row yet.",
        "at.after-undo-row": "It has one.",
        "at.before-local-commit": "Everything is in the local transaction.",
        "at.after-local-commit": "The local transaction is committed; nobody was told.",
        "at.before-report": "The same, and the report is about to go.",
        "at.after-report": "The coordinator knows, or will with the decision.",
        "at.before-take-back": "A branch was committed when nobody asks for it any more.",
        "at.after-take-back": "It is undone, and nothing is left of it.",
        "at.before-placeholder": "A branch without an undo row is rolled back.",
        "at.after-placeholder": "Its placeholder is there, and not committed.",
        "at.before-restore": "The undo row is locked; a statement's rows are not restored.",
        "at.after-restore": "They are restored, and not committed.",
        "at.before-tombstone": "All rows are restored; the undo row is still to be undone.",
        "at.after-tombstone": "The undo row is a tombstone, and nothing is committed.",
        "at.before-rollback-commit": "The same.",
        "at.after-rollback-commit": "The branch is undone; nobody was told.",
        "at.before-delete": "Undo rows of finished branches are about to be deleted.",
        "at.after-delete": "They are deleted.",
        # Branches of XA (tidelock.xa)
        "xa.before-register": "A connection is open, and nothing is known of the branch.",
        "xa.after-register": "The cluster has the branch; the database does not.",
        "xa.after-start": "The database has the branch; no statement was executed.",
        "xa.before-prepare": "The work is done, and ends with the connection.",
        "xa.after-prepare": "The database holds the branch; the cluster does not know.",
        "xa.after-report": "The cluster knows that the branch is prepared.",
        "xa.before-abandon": "The branch failed, and its work is still there.",
        "xa.after-abandon": "Its work is undone; the cluster was not told.",
        "xa.before-late-rollback": "It is prepared, and its transaction has ended meanwhile.",
        "xa.before-commit": "It is decided to commit, and the branch is prepared.",
        "xa.after-commit": "The branch is committed; nobody was told.",
        "xa.before-rollback": "It is decided to roll back, and the branch is as it was.",
        "xa.after-rollback": "The branch is rolled back; nobody was told.",
        "xa.before-settle": "A branch is left prepared, and its transaction has ended.",
        "xa.after-settle": "It has ended as its transaction did.",
        # LCN (tidelock.lcn)
        "lcn.before-register": "A unit's work is in the open local transaction; nobody knows.",
        "lcn.after-register": "The unit's branch is registered.",
        "lcn.before-report": "Its savepoint is released; the report is about to go.",
        "lcn.after-report": "The coordinator knows that the unit has joined.",
        "lcn.before-undo": "A unit has failed, and its work is still there.",
        "lcn.after-undo": "Its work is undone; that of others is still held.",
        "lcn.before-commit": "It is decided to commit, and the connection is as it was.",
        "lcn.after-commit": "The local transaction is committed; nobody was told.",
        "lcn.before-rollback": "It is decided to roll back, and the connection is as it was.",
        "lcn.after-rollback": "The local transaction is rolled back; nobody was told.",
        # Steps behind a fence, which are TCC's and SAGA's (tidelock.fence). A Cancel of SAGA is
        # the compensation, and there is no Confirm.
        "fence.before-register": "A step is called; nobody knows of it.",
        "fence.after-register": "The branch is registered.",
        "fence.before-fence-row": "The local transaction of a step has begun, without its row.",
        "fence.after-fence-row": "It has the row; the step itself has not begun.",
        "fence.before-step-commit": "The step is done, and not committed.",
        "fence.after-step-commit": "It is committed; nobody was told.",
        "fence.before-report": "The step has passed its fence; the report is about to go.",
        "fence.after-report": "The coordinator knows that the step is done.",
        "fence.before-failure-report": "The step has failed, and nothing of it is committed.",
        "fence.after-failure-report": "The coordinator knows that it has failed.",
        "fence.before-take-back-commit": "A step that was too late is undone, and not committed.",
        "fence.after-take-back-commit": "It is undone, and nothing is left of it.",
        "fence.before-confirm": "The fence row is locked, and says that the branch is tried.",
        "fence.before-confirm-commit": "The row says confirmed and Confirm is done, not committed.",
        "fence.after-confirm-commit": "It is committed; nobody was told.",
        "fence.before-cancel": "The fence row is locked, and says that the branch is tried.",
        "fence.before-cancel-commit": "The row says cancelled and Cancel is done, not committed.",
        "fence.after-cancel-commit": "It is committed; nobody was told.",
        "fence.before-suspend": "A branch without a fence row is cancelled.",
        "fence.before-suspend-commit": "Its row says that no step may follow, not committed.",
        "fence.after-suspend-commit": "It is committed; nobody was told.",
        "fence.before-delete": "Fence rows of finished transactions are about to be deleted.",
        "fence.after-delete": "They are deleted.",
        "fence.before-fence-enter": "The coordinator's fence is about to be asked to let one in.",
        "fence.after-fence-enter": "It has answered; the step has not begun.",
        "fence.before-fence-done": "The step is done; the coordinator's fence does not know.",
        "fence.after-fence-done": "It knows.",
        # TXC (tidelock.txc); what its branches write is AT's
        "txc.before-lock": "A statement's rows are known and not locked.",
        "txc.after-lock": "They are locked at the coordinator; the statement has not run.",
        "txc.before-unlock": "A savepoint was gone back to; rows since then are locked.",
        "txc.after-unlock": "They are free.",
        "txc.before-undo": "A unit has failed; its local transaction is committed.",
        "txc.after-undo": "It is undone; its branch is not withdrawn.",
        "txc.after-withdraw": "The branch is withdrawn, its rows are free.",
    }
)
"""Each name with what holds in that moment."""


class _Armed:
    """The point at which this process dies."""

    def __init__(self, setting: str) -> None:
        """Raises: ValueError: there is no such point, or the number is none."""
        self.name, _, number = setting.partition(":")
        _check(self.name)
        self._left = int(number or "1")
        if self._left < 1:
            raise ValueError(f"{VARIABLE}={setting}: behind the colon stands 1 or more")
        self._lock = threading.Lock()

    def __call__(self, name: str) -> None:
        if name != self.name:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.write(2, f"killed at {name}\n".encode())
                die()


def reached(name: str) -> None:
    """Go on, unless a test wants something to happen here."""
    if _at is not None:
        _at(name)


@contextmanager
def watched(at: Callable[[str], None]) -> Iterator[None]:
    """Have `at` called with the name of every point that this process reaches, in its threads.

    What it raises is raised there. One watcher at a time; a process in which a point is armed is
    killed there all the same, after `at` was called.
    """
    global _at  # noqa: PLW0603 (a process dies once)
    before, _at = _at, at if _at is None else _both(at, _at)
    try:
        yield
    finally:
        _at = before


def _both(first: Callable[[str], None], second: Callable[[str], None]) -> Callable[[str], None]:
    def each(name: str) -> None:
        first(name)
        second(name)

    return each


def die() -> None:
    """End this process as `kill -9` does: nothing is flushed, closed or said."""
    if hasattr(signal, "SIGKILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)


def _check(name: str) -> None:
    """Raises: ValueError"""
    if name not in POINTS:
        raise ValueError(f"{name!r} is no crash point; tidelock.crash_points.POINTS lists them")


_at: Callable[[str], None] | None = _Armed(os.environ[VARIABLE]) if VARIABLE in os.environ else None
