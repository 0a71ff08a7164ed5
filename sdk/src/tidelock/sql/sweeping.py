"""Looking through all guards of a resource for those that are no longer needed.

A guard goes by the coordinator's `clean`. Where it noted too little for that, it asks the resource
to sweep: page by page, each guard of its cluster is asked for, and forgotten when its transaction
is over. Guards of other clusters, and of nobody knows which, stay.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from tidelock.application import Application

PAGE: Final = 500
"""Guards that are looked at in one go: as many as one question to the cluster may name."""


class Guard(msgspec.Struct, frozen=True):
    """What is kept for a branch, as far as sweeping goes."""

    place: Any
    """After which the next page begins."""
    xid: str
    branch_id: int
    cluster_id: str


async def sweep(
    application: Application,
    page_after: Callable[[Any], Awaitable[Sequence[Guard]]],
    forget: Callable[[Sequence[tuple[str, int]]], Awaitable[None]],
) -> int:
    """Forget what is over; return of how many branches. On the application's own loop.

    `page_after(place)` returns up to `PAGE` guards behind a place, None for the first; `forget`
    deletes those of branches.

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
        over = [(each.xid, each.branch_id) for each in fates if each.may_clean]
        if over:
            await forget(over)
            forgotten += len(over)
    return forgotten
