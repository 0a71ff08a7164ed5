"""Reading whole lists of timestamp events, page by page."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from scripts.tidelock_scripts.client import ClusterClient

EVENT_PATH = "/api/v1/timestamp/event"
SYNC_PATH = "/api/v1/timestamp/sync"
EVENTS_PATH = "/api/v1/timestamp/events"
CLOCK_PATH = "/api/v1/timestamp/clock"
LOCKS_PATH = "/api/v1/locks"
TSO_PATH = "/api/v1/tso"

_PAGE = 1000


class UnexpectedAnswerError(Exception):
    """The server answered with something that the contract does not have."""


async def list_events(
    client: ClusterClient, node_id: str, *, deadline_s: float = 30.0, **filters: str
) -> list[dict[str, Any]]:
    """Return every event that exactly `node_id` lists, in its order.

    `filters` are those of the contract: nodeId, eventType, afterLamport, consistency.

    Raises:
        UnexpectedAnswerError: the node does not answer, or not with a page.
    """
    events: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {**filters, "limit": str(_PAGE), **({"cursor": cursor} if cursor else {})}
        path = f"{EVENTS_PATH}?{urlencode(query)}"
        answer = await client.ask(node_id, path, timeout_s=deadline_s)
        if answer is None or not answer.ok:
            what = "nothing" if answer is None else f"{answer.status} {answer.body}"
            raise UnexpectedAnswerError(f"{node_id} answered {what} to {path}")
        events += answer.body["items"]
        cursor = answer.body["nextCursor"]
        if cursor is None:
            return events
