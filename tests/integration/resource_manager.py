"""A resource manager in miniature: it connects, registers, and answers as the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

CHANNEL = "/api/v1/rm/channel"
ALL_MODES = ["AT", "LCN", "SAGA", "TCC", "TXC", "XA"]

Message = dict[str, Any]

AGREES = {
    "branch-commit": "COMMITTED",
    "branch-rollback": "ROLLED_BACK",
    "branch-status": "UNKNOWN",
    "clean": "CLEANED",
    "sweep": "CLEANED",
}

DEADLINE_S = 20.0


def register(**differently: Any) -> Message:
    """Return what a resource manager says first."""
    return {
        "type": "register",
        "applicationId": "orders",
        "host": "h1",
        "resources": ["db"],
        "modes": ALL_MODES,
        **differently,
    }


class ResourceManager:
    """One connection. What comes is kept; calls are answered by `answer`, when it is set."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.socket = socket
        self.session_id = 0
        self.asked = 0
        """The number of its last request."""
        self.heard: list[Message] = []
        self.answer: Callable[[Message], str | Message | None] | None = None
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def calls(self) -> list[Message]:
        """What it was called for, in order."""
        return [message for message in self.heard if is_call(message)]

    @property
    def close_code(self) -> int | None:
        return self.socket.close_code

    async def say(self, message: object) -> None:
        await self.socket.send_str(json.dumps(message))

    async def register(self, **differently: Any) -> Message:
        """Register; return the welcome."""
        before = len(self.heard)
        await self.say(register(**differently))
        await self.until(lambda: len(self.heard) > before or self.socket.closed)
        welcome = self.heard[before]
        assert welcome["type"] == "welcome", welcome
        self.session_id = welcome["sessionId"]
        return welcome

    async def result(self, call: Message, status: str, **more: Any) -> None:
        await self.say({"type": "result", "requestId": call["requestId"], "status": status, **more})

    async def fates(
        self, *branches: tuple[str, int], request_id: int = 5
    ) -> list[tuple[str, bool]]:
        """Ask what became of branches; return status and whether they may be cleaned."""
        before = len(self.heard)
        asked = [{"xid": xid, "branchId": branch_id} for xid, branch_id in branches]
        await self.say({"type": "ask-fates", "requestId": request_id, "branches": asked})

        def answers() -> list[Message]:
            return [each for each in self.heard[before:] if each["type"] == "fates"]

        (told,) = await self.until(lambda: answers() or (self.socket.closed and [None]))
        assert told is not None, "the channel was closed"
        assert told["requestId"] == request_id
        found = told["branches"]
        assert [(each["xid"], each["branchId"]) for each in found] == list(branches)
        return [(each["status"], each["mayClean"]) for each in found]

    async def until(self, holds: Callable[[], Any]) -> Any:
        """Return what `holds()` says, once that is true."""
        async with asyncio.timeout(DEADLINE_S):
            while not (found := holds()):
                self._news.clear()
                await self._news.wait()
        return found

    async def called(self, number: int = 1) -> Message:
        """Return the call of this number, counted from 1, once it has come."""
        await self.until(lambda: len(self.calls) >= number)
        return self.calls[number - 1]

    async def ended(self) -> int | None:
        """Return the code with which the node closed the channel."""
        async with asyncio.timeout(DEADLINE_S):
            await self._reading
        return self.socket.close_code

    async def hang_up(self) -> None:
        """Let the connection break, without a word."""
        self._reading.cancel()
        transport = self.socket.get_extra_info("socket")
        response = self.socket._response
        assert response.connection is not None, transport
        assert response.connection.transport is not None
        response.connection.transport.abort()

    async def stop(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        if not self.socket.closed:
            await self.socket.close()

    async def _read(self) -> None:
        async for message in self.socket:
            if message.type is not WSMsgType.TEXT:
                break
            told: Message = json.loads(message.data)
            self.heard.append(told)
            self._news.set()
            if is_call(told) and self.answer is not None:
                await self._answer(told, self.answer(told))
        self._news.set()

    async def _answer(self, call: Message, answer: str | Message | None) -> None:
        if isinstance(answer, str):
            await self.result(call, answer)
        elif answer is not None:
            await self.say({"type": "result", "requestId": call["requestId"], **answer})


def is_call(message: Message) -> bool:
    return "requestId" in message and message["type"] not in ("fates", "response")


def agree(call: Message) -> str:
    """Do whatever is asked."""
    return AGREES[call["type"]]


@asynccontextmanager
async def connected(
    url: str, *, registers: bool = True, session: ClientSession | None = None, **as_whom: Any
) -> AsyncIterator[ResourceManager]:
    """Connect to the node at `url`, and register unless that is left to the test."""
    async with ClientSession() as own:
        socket = await (session or own).ws_connect(f"{url}{CHANNEL}", autoping=True)
        manager = ResourceManager(socket)
        try:
            if registers:
                await manager.register(**as_whom)
            yield manager
        finally:
            await manager.stop()
