"""One connection of the channel: how it is opened, what is said on it, how it is known to be gone.

It ends with `ChannelClosedError`, whatever ended it: a close frame, a broken connection, silence, a
node that says what no node says.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from aiohttp import WSMsgType
from yarl import URL

from tidelock.client.transport import Transport
from tidelock.rm.messages import (
    GREATEST_HEARD_BYTES,
    Asked,
    Complaint,
    FatesTold,
    GoElsewhere,
    Heard,
    Response,
    Said,
    Unknown,
    Unreadable,
    Welcome,
    decode,
    encode,
)

_CONNECT_S: Final = 3.0
_WELCOME_S: Final = 8.0
"""A node answers within 5 s, or sends elsewhere."""
_CLOSE_S: Final = 0.5
"""How long the other side may take to agree that it is over."""

ABNORMAL: Final = 1006
STOPPING: Final = 1001
BAD_MESSAGE: Final = 4400
REPLACED: Final = 4409
SESSION_ENDED: Final = 4410
GO_ELSEWHERE: Final = 4503


class ChannelClosedError(Exception):
    """The connection is over, or never was. `code` is that of WebSocket, 1006 without a word."""

    def __init__(self, why: str, code: int = ABNORMAL, *, refused: bool = False) -> None:
        super().__init__(why)
        self.code = code
        self.refused = refused
        """The node does not want this process as it is; another try is as bad, for the time."""


class Connection:
    """A channel to one node. One task receives; any may say something."""

    def __init__(self, url: URL, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self.url = url
        self._socket = socket
        self._silence_s = _WELCOME_S
        """How long nothing at all may come, not even a ping."""
        self._complaint: Complaint | None = None
        self.descriptor = socket.get_extra_info("socket")
        """What a child process has inherited."""
        carrier = socket._response.connection
        self._carrier = None if carrier is None else carrier.transport

    @property
    def is_open(self) -> bool:
        return not self._socket.closed

    async def receive(self) -> Welcome | Asked | FatesTold | Response | Unreadable:
        """Return what the node says next.

        Raises:
            ChannelClosedError
        """
        while True:
            heard = await self._next()
            match heard:
                case Welcome():
                    self._silence_s = max(1.0, 2 * heard.heartbeat_ms / 1000)
                    return heard
                case Complaint():
                    self._complaint = heard
                case GoElsewhere():
                    raise ChannelClosedError(heard.reason or "another node", GO_ELSEWHERE)
                case Unknown():
                    continue
                case _:
                    return heard

    async def _next(self) -> Heard:
        try:
            message = await self._socket.receive(self._silence_s)
        except TimeoutError:
            raise ChannelClosedError(f"nothing was heard for {self._silence_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ChannelClosedError(_named(error)) from None
        if message.type is not WSMsgType.TEXT:
            raise self._ended(message.type, message.extra)
        content = message.data
        try:
            return decode(content if isinstance(content, bytes) else content.encode())
        except ValueError as error:
            raise ChannelClosedError(f"the node says what no node says: {error}") from None

    def _ended(self, kind: WSMsgType, reason: str | None) -> ChannelClosedError:
        code = self._socket.close_code or ABNORMAL
        if self._complaint is not None:
            why = f"{self._complaint.code} {self._complaint.detail}"
        elif kind is WSMsgType.BINARY:
            return ChannelClosedError("the node sends bytes, where it should send text")
        elif kind is WSMsgType.ERROR:
            return ChannelClosedError(
                f"the node speaks no WebSocket: {_named(self._socket.exception())}"
            )
        else:
            why = f"the node closed the channel with {code} {reason or ''}".rstrip()
        return ChannelClosedError(why, code, refused=code in (BAD_MESSAGE, 1009, 4408, 4429))

    async def say(self, message: Said) -> None:
        """Send.

        Raises:
            ChannelClosedError
        """
        try:
            await self._socket.send_str(encode(message))
        except (aiohttp.ClientError, OSError) as error:
            raise ChannelClosedError(_named(error)) from None

    async def close(self) -> None:
        """End it, and wait a moment for the other side to agree."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._socket.close()
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        finally:
            # What is still to be written to a node that takes nothing, or a farewell of TLS that
            # does not come, would keep the socket open.
            if self._carrier is not None:
                self._carrier.abort()


async def connect(transport: Transport, url: URL) -> Connection:
    """Open a channel to a node; nobody has registered on it yet.

    Raises:
        ChannelClosedError, ClientClosedError
    """
    session = transport.session(waits=True)
    try:
        async with asyncio.timeout(_CONNECT_S):
            socket = await session.ws_connect(
                url / "api/v1/rm/channel",
                headers=transport.access.headers(),
                autoclose=True,
                autoping=True,
                max_msg_size=GREATEST_HEARD_BYTES,
                timeout=aiohttp.ClientWSTimeout(ws_close=_CLOSE_S),
                decode_text=False,
            )
    except aiohttp.WSServerHandshakeError as error:
        refused = error.status in (400, 401, 403, 404, 426)
        # Its message and headers are not repeated: the token may be among them.
        why = f"the node answered {error.status} instead of opening a channel"
        raise ChannelClosedError(why, refused=refused) from None
    except TimeoutError:
        raise ChannelClosedError(f"no channel was opened within {_CONNECT_S:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise ChannelClosedError(_named(error)) from None
    return Connection(url, socket)


def _named(error: BaseException | None) -> str:
    return f"{type(error).__name__} {error}".rstrip()
