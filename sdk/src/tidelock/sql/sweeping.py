"""Looking through all guards of a resource for those that are no longer needed.

A guard goes by the coordinator's `clean`. Where it noted too little for that, it asks the resource
to sweep: page by page, each guard of its cluster is asked for, and forgotten when its transaction
is over. Guards of other clusters, and of nobody knows which, stay.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from tidelock.application import Application
from tidelock.rm.resource import PhaseTwoResult, PhaseTwoStatus

_ROLLED_BACK: Final = frozenset({"ROLLED_BACK", "TIMEOUT_ROLLED_BACK"})

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


async def sweep(
    application: Application,
    page_after: Callable[[Any], Awaitable[Sequence[Guard]]],
    forget: Callable[[Sequence[tuple[str, int]]], Awaitable[None]],
    roll_back: Callable[[str, int], Awaitable[PhaseTwoResult]],
) -> int:
    """Forget what is over; return of how many branches. On the application's own loop.

    `page_after(place)` returns up to `PAGE` guards behind a place, None for the first; `forget`
    deletes those of branches; `roll_back` undoes a branch first that came too late. One that cannot
    be undone keeps its guard.

    Raises:
        FatesUnknownError, and what the two raise: some may be left then.
    """
    cluster_id = application.cluster_id
    forgotten = 0
    place: Any = None
    while page := await page_after(place):
        place = page[-1].place
        ours = [
            (each.xid, each.branch_id)
            for each in page
            if cluster_id and each.cluster_id == cluster_id
        ]
        fates = await application.fates(application.awaiting, cluster_id, ours)
        late = {(each.xid, each.branch_id) for each in page if each.is_undoable}
        over = []
        for each in fates:
            branch = (each.xid, each.branch_id)
            is_late = branch in late and each.status in _ROLLED_BACK
            if each.may_clean and (not is_late or await _is_undone(roll_back, branch)):
                over.append(branch)
        if over:
            await forget(over)
            forgotten += len(over)
    return forgotten


async def _is_undone(
    roll_back: Callable[[str, int], Awaitable[PhaseTwoResult]], branch: tuple[str, int]
) -> bool:
    result = await roll_back(*branch)
    if result.status is PhaseTwoStatus.ROLLED_BACK:
        return True
    _log.warning(
        "branch %d of %s came too late, and stays: %s", branch[1], branch[0], result.detail
    )
    return False
