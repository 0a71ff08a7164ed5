"""The wires between business and the other services: what goes over them is seen, and told.

Business calls each service through here, so a purchase can be disturbed at a known moment: before a
service is called, or when it has answered and business has not heard of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from multidict import CIMultiDict

_OWN_HEADERS: Final = ("Host", "Content-Length", "Transfer-Encoding")

Moment = tuple[str, Literal["before", "after"]]
"""A service, and whether it is about to be called or has answered."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of business to another service."""

    service: str
    xid: str
    began_ms: int
    took_ms: float
    status: int
    """0 when there was no answer."""
    detail: str
    """What went wrong."""


class Wires:
    """Forwards `/{service}/…` to the services. Used as `async with`."""

    def __init__(self, services: Mapping[str, str]) -> None:
        """`services` are the names with their URLs."""
        self._services = dict(services)
        self._runner: web.AppRunner | None = None
        self._session: ClientSession | None = None
        self._disturb: tuple[Moment, Callable[[], Awaitable[None]]] | None = None
        self.calls: list[Call] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{service}/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._session = ClientSession(timeout=ClientTimeout(total=30), trust_env=False)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def url(self, service: str) -> str:
        """Where business is told that the service is."""
        assert self._runner is not None
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/{service}"

    def disturb(self, moment: Moment, by: Callable[[], Awaitable[None]]) -> None:
        """Do something when that moment comes, once."""
        self._disturb = moment, by

    async def _reached(self, moment: Moment) -> None:
        if self._disturb is not None and self._disturb[0] == moment:
            by, self._disturb = self._disturb[1], None
            await by()

    async def _forward(self, request: web.Request) -> web.Response:
        service = request.match_info["service"]
        await self._reached((service, "before"))
        headers = CIMultiDict(request.headers)
        for name in _OWN_HEADERS:
            headers.popall(name, None)
        began_ms, began_at = time.time_ns() // 1_000_000, time.monotonic()
        status, content, detail = 0, b"", ""
        try:
            assert self._session is not None
            async with self._session.post(
                f"{self._services[service]}/{request.match_info['path']}",
                data=await request.read(),
                headers=headers,
            ) as response:
                status, content = response.status, await response.read()
                detail = _error(content) if status >= 400 else ""
        except (ClientError, OSError) as error:
            detail = f"{type(error).__name__}"
        self.calls.append(
            Call(
                service=service,
                xid=request.headers.get("X-Tx-Xid", ""),
                began_ms=began_ms,
                took_ms=(time.monotonic() - began_at) * 1000,
                status=status,
                detail=detail,
            )
        )
        await self._reached((service, "after"))
        return web.Response(status=status or 502, body=content, content_type="application/json")


def _error(content: bytes) -> str:
    """Return what a service says of an error, in its own words where it has some."""
    try:
        return str(msgspec.json.decode(content, type=dict[str, str])["error"])
    except (msgspec.DecodeError, KeyError):
        return content.decode(errors="replace")
