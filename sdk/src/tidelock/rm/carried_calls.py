"""Calls of the contract over the channel, instead of by requests of their own.

The channel is open anyway, and a message on it costs a fraction of an HTTP request. The answers are
the same. A call whose answer does not come is in the same doubt as a request whose connection
broke: `tidelock.client.attempts` asks again, over HTTP, under the same key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
from yarl import URL

from tidelock.client.transport import Call, NoAnswerError, NotSentError, Received
from tidelock.rm.connection import ChannelClosedError, Connection
from tidelock.rm.messages import GREATEST_MESSAGE_BYTES, Request, Response

GREATEST_UNDER_WAY: Final = 400
"""Fewer than a node takes. What is more goes over HTTP."""

_GREATEST_BODY_BYTES: Final = GREATEST_MESSAGE_BYTES - 8_192
"""There is room for the path beside it."""

_CARRIED: Final = ("/api/v1/transactions", "/api/v1/row-locks")
"""What paths begin with that nodes take over the channel."""

_NO_HEADERS: Final[Mapping[str, str]] = {}


class CarriedCalls:
    """`tidelock.client.transport.Carrier` of one connection. All is on one loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._number = 0
        self._asked: dict[int, asyncio.Future[Received]] = {}

    @property
    def url(self) -> URL:
        """The node at the other end."""
        return self._connection.url

    @property
    def under_way(self) -> int:
        return len(self._asked)

    def takes(self, call: Call) -> bool:
        """Say whether a call can go this way."""
        return (
            call.path.startswith(_CARRIED)
            and len(self._asked) < GREATEST_UNDER_WAY
            and (call.body is None or len(call.body) <= _GREATEST_BODY_BYTES)
            and self._connection.is_open
        )

    async def attempt(
        self, call: Call, key: str, timeout_ms: int | None, within_s: float
    ) -> Received:
        """Ask the node, and wait for its answer for so long.

        Raises:
            NotSentError, NoAnswerError
        """
        if not self._connection.is_open:
            raise NotSentError(f"{self.url}: the channel is closed")
        self._number += 1
        number = self._number
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[Received] = loop.create_future()
        self._asked[number] = asked
        late = loop.call_later(within_s, self._fail, asked, "no answer came in time")
        request = Request(
            request_id=number,
            method=call.method,
            path=call.path,
            key=key,
            timeout_ms=timeout_ms,
            body=msgspec.UNSET if call.body is None else msgspec.Raw(call.body),
        )
        try:
            await self._connection.say(request)
            return await asked
        except ChannelClosedError as error:
            raise NoAnswerError(f"{self.url}: {error}") from None
        finally:
            late.cancel()
            del self._asked[number]

    def answered(self, response: Response) -> None:
        """A node answers. Who has left meanwhile does not hear it."""
        asked = self._asked.get(response.request_id)
        if asked is not None and not asked.done():
            asked.set_result(Received(response.status, _NO_HEADERS, bytes(response.body)))

    def lost(self) -> None:
        """The connection is gone, and nobody knows what became of what was asked on it."""
        for asked in self._asked.values():
            self._fail(asked, "the channel was lost before the answer")

    def _fail(self, asked: asyncio.Future[Received], why: str) -> None:
        if not asked.done():
            asked.set_exception(NoAnswerError(f"{self.url}: {why}"))
