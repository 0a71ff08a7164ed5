"""Requests that fail, or get lost on their way, because a test wants it."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Final, Literal, get_args

from aiohttp import web

Operation = Literal["begin", "register", "report", "commit", "rollback", "lock", "status", "any"]
"""What an application asks for. `lock`: rows of a branch, or whether rows are free; `status`: how a
transaction stands."""

Fault = Literal["unavailable", "lost", "unanswered"]
"""unavailable: 503, and nothing was done. lost: it was done, and the answer says that nobody knows.
unanswered: the connection breaks, and nothing was done."""

_TRANSACTIONS: Final = "/api/v1/transactions"
_PATHS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", _TRANSACTIONS): "begin",
    ("POST", f"{_TRANSACTIONS}/{{xid}}/branches"): "register",
    ("POST", f"{_TRANSACTIONS}/{{xid}}/branches/{{branchId}}/report"): "report",
    ("POST", f"{_TRANSACTIONS}/{{xid}}/commit"): "commit",
    ("POST", f"{_TRANSACTIONS}/{{xid}}/rollback"): "rollback",
    ("POST", f"{_TRANSACTIONS}/{{xid}}/branches/{{branchId}}/locks"): "lock",
    ("POST", "/api/v1/row-locks/query"): "lock",
    ("GET", f"{_TRANSACTIONS}/{{xid}}"): "status",
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Faults:
    """What is to go wrong, and the middleware that sees to it. Set from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._planned: dict[str, tuple[Fault, int | None]] = {}
        self.counts: dict[Operation, int] = {}
        """Requests that came, by operation, those that failed included."""

    def plan(self, operation: Operation, fault: Fault, times: int | None) -> None:
        """Have the next requests fail; `times` None: until `forget`.

        Raises:
            ValueError: there is no such operation or fault, or `times` is none.
        """
        if operation not in get_args(Operation) or fault not in get_args(Fault):
            raise ValueError(
                f"operations are {', '.join(get_args(Operation))}; "
                f"faults are {', '.join(get_args(Fault))}"
            )
        if times is not None and times < 1:
            raise ValueError(f"times must be 1 or more, not {times}")
        with self._lock:
            self._planned[operation] = (fault, times)

    def forget(self, operation: Operation) -> None:
        """Let requests succeed again."""
        with self._lock:
            self._planned.pop(operation, None)

    def _take(self, operation: Operation | None) -> Fault | None:
        with self._lock:
            if operation is not None:
                self.counts[operation] = self.counts.get(operation, 0) + 1
            for name in (operation, "any"):
                planned = None if name is None else self._planned.get(name)
                if name is None or planned is None:
                    continue
                fault, times = planned
                if times == 1:
                    del self._planned[name]
                elif times is not None:
                    self._planned[name] = (fault, times - 1)
                return fault
        return None

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Serve a request, unless it is to fail."""
        resource = request.match_info.route.resource
        path = "" if resource is None else resource.canonical
        fault = self._take(_PATHS.get((request.method, path)))
        if fault is None:
            return await handler(request)
        if fault == "unanswered":
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the test wants it")
        if fault == "lost":
            await handler(request)
            return _problem("OUTCOME_UNKNOWN", "It may have been done: the test wants it so.")
        return _problem("NO_QUORUM", "Nothing was done: the test wants it so.")


def _problem(code: str, detail: str) -> web.Response:
    name = code.lower().replace("_", "-")
    body = {
        "type": f"urn:problem-type:tidelock:{name}",
        "title": "A planned fault",
        "status": 503,
        "code": code,
        "detail": detail,
    }
    return web.json_response(body, status=503, content_type="application/problem+json")
