"""Forgetting the guards of transactions that are over, without losing work that came too late.

A guard goes by the coordinator's `clean`. Where it noted too little for that, it asks the resource
to sweep: page by page, each guard of its cluster is asked for, and forgotten when its transaction
is over. Guards of other clusters, and of nobody knows which, stay.

Work can come after its transaction was rolled back and its guard is gone: another guard then stands
in the same place, which tells of work to be undone. Its own process undoes it, unless it dies. So
such a guard is only ever deleted once it is known that there is nothing to undo, and what says that
a branch is over deletes no guard that has come since it looked.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec

from tidelock.application import Application
from tidelock.rm.resource import Fate, PhaseTwoResult, PhaseTwoStatus

Branch = tuple[str, int]
"""An xid and the id of a branch."""

_ROLLED_BACK: Final = frozenset({"ROLLED_BACK", "TIMEOUT_ROLLED_BACK"})
_FORGOTTEN: Final = "FORGOTTEN"

_log: Final = logging.getLogger(__name__)

PAGE: Final = 500
"""Guards that are looked at in one go: as many as one question to the cluster may name."""


class Guard(msgspec.Struct, frozen=True):
    """What is kept for a branch, as far as sweeping goes."""

    place: Any
    """After which the next page begins."""
    xid: str
    branch_id: int
    cluster_id: str
    is_undoable: bool = False
    """It tells of work that can still be undone. When its transaction was rolled back, that work
    came too late, and who did it died before taking it back.
    """


class Guards(Protocol):
    """The guards of a resource, where they are kept. What they raise is what drivers raise."""

    async def page_after(self, place: Any) -> Sequence[Guard]:
        """Return up to `PAGE` guards behind a place, None for the first."""
        ...

    async def undoable(self, branches: Sequence[Branch]) -> Sequence[Branch]:
        """Return those of which a guard tells of work that can still be undone."""
        ...

    async def forget(self, branches: Sequence[Branch], *, even_undoable: bool) -> None:
        """Delete the guards of branches; those of work that can be undone only if told to."""
        ...

    async def roll_back(self, xid: str, branch_id: int) -> PhaseTwoResult:
        """Undo a branch that came too late. It may be asked for twice at once."""
        ...


async def sweep(application: Application, guards: Guards) -> int:
    """Forget what is over; return of how many branches. On the application's own loop.

    What came too late is undone first. What cannot be undone keeps its guard, and so does work of
    which nobody knows any more whether it was committed.

    Raises:
        FatesUnknownError, and what the guards raise: some may be left then. If it is a branch that
        could not be undone, all others are done.
    """
    cluster_id = application.cluster_id
    settling = _Settling(guards)
    forgotten = 0
    place: Any = None
    while page := await guards.page_after(place):
        place = page[-1].place
        ours = [each for each in page if cluster_id and each.cluster_id == cluster_id]
        fates = await application.fates(
            application.awaiting, cluster_id, [(each.xid, each.branch_id) for each in ours]
        )
        late = {(each.xid, each.branch_id) for each in ours if each.is_undoable}
        over = [each for each in fates if each.may_clean]
        known = [each for each in over if each.status != _FORGOTTEN or _branch(each) not in late]
        forgotten += await settling.forget(known, late)
        settling.kept += len(over) - len(known)
    settling.complain()
    return forgotten


async def clean(application: Application, guards: Guards, branches: Sequence[Branch]) -> None:
    """Forget branches of which the cluster says that they are over.

    It says so twice when the first answer was lost, and work may come too late in between.

    Raises:
        FatesUnknownError, and what the guards raise. A branch that cannot be undone stays.
    """
    await guards.forget(branches, even_undoable=False)
    late = set(await guards.undoable(branches))
    if late:
        asked = [each for each in branches if each in late]
        fates = await application.fates(application.awaiting, application.cluster_id, asked)
        await _Settling(guards).forget(fates, late)


class _Settling:
    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._failure: Exception | None = None
        self.kept = 0
        """Guards of work that may have to be undone, of which nobody knows."""

    async def forget(self, over: Sequence[Fate], late: set[Branch]) -> int:
        """Forget branches that are over, undoing what came too late; return how many."""
        without_work: list[Branch] = []
        with_work: list[Branch] = []
        for each in over:
            branch = _branch(each)
            if branch not in late:
                without_work.append(branch)
            elif each.status not in _ROLLED_BACK:
                with_work.append(branch)
            elif await self._is_undone(branch):
                without_work.append(branch)
        if without_work:
            await self._guards.forget(without_work, even_undoable=False)
        if with_work:
            await self._guards.forget(with_work, even_undoable=True)
        return len(without_work) + len(with_work)

    async def _is_undone(self, branch: Branch) -> bool:
        xid, branch_id = branch
        try:
            result = await self._guards.roll_back(xid, branch_id)
        except Exception as error:
            self._failure = self._failure or error
            why = f"{type(error).__name__}: {error}"
        else:
            if result.status is PhaseTwoStatus.ROLLED_BACK:
                return True
            why = result.detail
        _log.error(
            "branch %d of %s came when its transaction had been rolled back, and cannot be undone; "
            "it stays as it is: %s",
            *(branch_id, xid, why),
        )
        return False

    def complain(self) -> None:
        """Raise what kept a branch from being undone: it is to be tried again."""
        if self.kept:
            _log.warning(
                "%d branches have work that could be undone, and the cluster has forgotten whether "
                "their transactions were committed: they stay until somebody deletes their rows",
                self.kept,
            )
        if self._failure is not None:
            raise self._failure


def _branch(fate: Fate) -> Branch:
    return fate.xid, fate.branch_id
