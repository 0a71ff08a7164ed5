"""Calls over HTTP: guarded where they lead, bounded in time and size, signed when there is a key.

No redirect is followed, no proxy of the environment is used, nothing is decompressed and no cookie
is kept. What a name leads to is judged when it is resolved, and once more for the very address that
a socket is made for.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import socket
import ssl
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType, Connection
from yarl import URL

from node.delivery.calls import BranchRequest, Cancel, Reply
from node.delivery.destinations import DestinationRefusedError, Destinations
from statemachine.transactions.driving import GREATEST_RESULT_BYTES

logger = logging.getLogger(__name__)

SIGNATURE: Final = "Tidelock-Signature"

GREATEST_BODY_BYTES: Final = GREATEST_RESULT_BYTES

_READ_BYTES: Final = 16 << 10
_NAMES_KEPT_S: Final = 10
_IDLE_S: Final = 15.0
"""Connections are kept for less time than servers usually keep theirs: one that the server closes
as it is used again would be an unknown outcome."""

_may_go: ContextVar[Callable[[], bool]] = ContextVar("may_go")


class NotSentError(Exception):
    """Whoever wanted the call must not make it any more."""


class HttpSender:
    """`calls.Sender` over HTTP, bound to the running loop."""

    def __init__(
        self,
        destinations: Destinations,
        *,
        timeout_ms: int,
        context: ssl.SSLContext | None = None,
        key: bytes = b"",
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._destinations = destinations
        self._timeout_ms = timeout_ms
        self._context = context
        self._key = key
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def send(
        self,
        request: BranchRequest,
        may_go: Callable[[], bool],
        on_reply: Callable[[Reply], None],
    ) -> Cancel:
        task = asyncio.create_task(self._send(request, may_go, on_reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return lambda: _cancel(task)

    async def _send(
        self,
        request: BranchRequest,
        may_go: Callable[[], bool],
        on_reply: Callable[[Reply], None],
    ) -> None:
        _may_go.set(may_go)
        on_reply(await self.exchange(request))

    async def exchange(self, request: BranchRequest) -> Reply:
        """Send one request and return what came of it, whatever that is."""
        timeout_ms = request.timeout_ms or self._timeout_ms
        try:
            url = self._destinations.target(request.url).url
            async with asyncio.timeout(timeout_ms / 1000):
                return await self._exchange(request, url)
        except TimeoutError:
            return _failed("TIMEOUT", f"no answer within {timeout_ms} ms")
        except DestinationRefusedError as error:
            return _failed("DESTINATION_REFUSED", str(error))
        except NotSentError:
            return _failed("NOT_SENT", "this node is not sure to lead any more")
        except aiohttp.ClientSSLError as error:
            return _failed("TLS", str(error))
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, DestinationRefusedError):
                return _failed("DESTINATION_REFUSED", str(error.os_error))
            return _failed("UNREACHABLE", str(error))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return _failed("BROKEN_OFF", str(error) or type(error).__name__)

    async def _exchange(self, request: BranchRequest, url: URL) -> Reply:
        headers = dict(request.headers)
        if self._key:
            headers[SIGNATURE] = signature(self._key, int(time.time()), request.body)
        async with self._opened().request(
            request.method, url, data=request.body or None, headers=headers, allow_redirects=False
        ) as response:
            body = await _read(response)
            if body is None:
                response.close()
                return Reply(status=response.status, cut=True)
            return Reply(status=response.status, body=body)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = _Connector(
                limit=0,
                resolver=_GuardedResolver(self._destinations, self._resolver),
                socket_factory=self._make_socket,
                ssl=True if self._context is None else self._context,
                keepalive_timeout=_IDLE_S,
                ttl_dns_cache=_NAMES_KEPT_S,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(),
                auto_decompress=False,
                trust_env=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "tidelock"},
            )
        return self._session

    def _make_socket(self, info: AddrInfoType) -> socket.socket:
        """Make the socket of one connection, whose address has the last word."""
        family, kind, protocol, _, address = info
        why = self._destinations.address_objection(str(address[0]), int(address[1]))
        if why is not None:
            raise DestinationRefusedError(f"{address[0]} is {why}")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


class _Connector(aiohttp.TCPConnector):
    """Asks, with the connection in hand, whether the call is still to be made."""

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:  # aiohttp's own business
        connection = await super().connect(*args, **kwargs)
        may_go = _may_go.get(None)
        if may_go is not None and not may_go():
            connection.close()
            raise NotSentError
        return connection


class _GuardedResolver(AbstractResolver):
    """Leaves out the addresses to which no connection may be made."""

    def __init__(self, destinations: Destinations, resolver: AbstractResolver | None) -> None:
        self._destinations = destinations
        self._resolver = aiohttp.ThreadedResolver() if resolver is None else resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises: DestinationRefusedError: nothing is left."""
        found = await self._resolver.resolve(host, port, family)
        own = await self._own(port)
        kept: list[ResolveResult] = []
        why = "nothing"
        for each in found:
            objection = self._destinations.address_objection(each["host"], port)
            if objection is None and each["host"] in own:
                objection = "the cluster itself"
            if objection is None:
                kept.append(each)
            else:
                why = f"{each['host']}, {objection}"
        if not kept:
            raise DestinationRefusedError(f"{host} leads to {why}")
        return kept

    async def _own(self, port: int) -> frozenset[str]:
        """Return where the cluster's nodes are whose addresses at this port are names."""
        found: set[str] = set()
        for name in self._destinations.own_names(port):
            try:
                found.update(each["host"] for each in await self._resolver.resolve(name, port))
            except OSError:
                # Nobody reaches it by its name, so nobody reaches it here by that name either.
                logger.info("the name of a member cannot be resolved", extra={"name_of": name})
        return frozenset(found)

    async def close(self) -> None:
        await self._resolver.close()


def signature(key: bytes, at_s: int, body: bytes) -> str:
    """Return `t=<seconds since the epoch>,v1=<hexadecimal HMAC-SHA256 of "t.body">`.

    The receiver computes the same, compares in constant time and refuses what is old.
    """
    digest = hmac.new(key, b"%d." % at_s + body, hashlib.sha256).hexdigest()
    return f"t={at_s},v1={digest}"


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Return the body; None when it is larger than is read."""
    content = response.content
    body = b""
    while part := await content.read(_READ_BYTES):
        body += part
        if len(body) > GREATEST_BODY_BYTES:
            return None
    return body


def _failed(kind: str, message: str) -> Reply:
    return Reply(failure_type=kind, failure_message=message)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
