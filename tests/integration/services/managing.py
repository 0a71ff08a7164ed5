"""A service that manages a resource: `wsgi` and `asgi` do the same.

`GET /session` tells which process serves, and its session. What the coordinator commits is written
to a file, each with the process that did it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tidelock import Application
from tidelock.driving import drive
from tidelock.rm.resource import (
    BranchCall,
    BranchStatus,
    Mode,
    PhaseTwoResult,
    PhaseTwoStatus,
)
from tidelock.rm.workers import in_worker


class Ledger:
    """A resource."""

    resource_id = "ledger"
    mode: Mode = "AT"

    async def commit(self, call: BranchCall) -> PhaseTwoResult:
        await in_worker(lambda: self._note(call))
        return PhaseTwoResult(status=PhaseTwoStatus.COMMITTED)

    def _note(self, call: BranchCall) -> None:
        # Long enough that an end which does not wait for it is noticed.
        time.sleep(0.2)
        with open(os.environ["LEDGER"], "a", encoding="utf-8") as ledger:
            ledger.write(f"{os.getpid()} {call.xid}\n")

    async def rollback(self, call: BranchCall) -> PhaseTwoResult:
        raise NotImplementedError

    async def status(self, call: BranchCall) -> BranchStatus:
        return BranchStatus.UNKNOWN

    async def clean(self, ended: Sequence[BranchCall]) -> None:
        raise NotImplementedError


application = Application([os.environ["NODE"]], application_id="service", discover=False)
application.attach(Ledger())


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    session_id = drive(application.session_id(application.blocking))
    # The next request goes to another worker.
    time.sleep(0.05)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid(), "sessionId": session_id}).encode()]


async def asgi(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[..., Any]) -> None:
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        await application.aclose()
        await send({"type": "lifespan.shutdown.complete"})
        return
    session_id = await application.session_id(application.awaiting)
    body = json.dumps({"pid": os.getpid(), "sessionId": session_id}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
