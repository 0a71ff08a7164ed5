"""Resource managers: the channel over which they are told of phase two, and who is connected.

A resource manager keeps one WebSocket open to any node, registers on it, and answers what it is
called for. The leader reaches it through that node.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

import msgspec
from aiohttp import WSMsgType, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from api import requests
from api.carried_requests import Carriage
from api.channels import Channel, Channels, MessageRefusedError
from api.cluster import Consistency, NoQuorumError, OutcomeUnknownError, OverloadedError
from api.endpoints import CONSISTENCY, PAGE, READ_ERRORS, Endpoint
from api.errors import Problem, of_exception
from api.replies import Reply
from api.rm_messages import (
    GREATEST_MESSAGE_BYTES,
    AskFates,
    BranchFate,
    Called,
    CloseCode,
    Complaint,
    Fates,
    GoElsewhere,
    Incoming,
    Leave,
    Register,
    Request,
    Response,
    Result,
    Welcome,
    decode,
    encode,
)
from api.service import Service
from api.shapes import Answer, Page
from statemachine import keys
from statemachine.commands import EndChannel, RegisterChannel
from statemachine.outcomes import Applied, ChannelRegistered, Rejected, RejectionCode
from statemachine.paging import decode_cursor, encode_cursor
from statemachine.state import load_state
from statemachine.transactions.channel_rows import ChannelSession, list_sessions
from statemachine.transactions.fates import fate_of

REGISTER_WITHIN_S: Final = 10.0
REGISTER_EVERY_S: Final = 0.1
"""Who registers more often waits for so long before it is heard again."""
CLOSE_WITHIN_S: Final = 2.0
"""How long a closed channel waits for the other side to agree."""

_READ_AT_MOST_BYTES: Final = 4 * GREATEST_MESSAGE_BYTES
"""What is larger is not even read to the end."""

_CLOSE_OF_REJECTION: Final = {
    RejectionCode.CHANNEL_SESSION_TAKEN: CloseCode.REPLACED,
    RejectionCode.TOO_MANY_CHANNELS: CloseCode.REFUSED,
}
_GOES_ELSEWHERE: Final = frozenset({CloseCode.STOPPING, CloseCode.GO_ELSEWHERE})

_log: Final = logging.getLogger(__name__)


class ChannelStream(web.WebSocketResponse):
    """A WebSocket that goes on once its head has been sent, like every answer of this API."""

    def __init__(self, service: Service, channels: Channels) -> None:
        super().__init__(
            heartbeat=channels.settings.channel_heartbeat_s,
            timeout=CLOSE_WITHIN_S,
            max_msg_size=_READ_AT_MOST_BYTES,
            compress=False,
        )
        self._service = service
        self._channels = channels
        self._request: web.Request | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._ending: asyncio.Task[None] | None = None

    # --- as an answer

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter:
        cluster = self._service.cluster
        position = cluster.applied_position()
        self.headers["Server"] = "Tidelock"
        self.headers["Tidelock-Node"] = cluster.node_id
        self.headers["Tidelock-Term"] = str(cluster.term)
        self.headers["Tidelock-Index"] = str(position)
        self._transport = request.transport
        self._request = request if isinstance(request, web.Request) else None
        return await super().prepare(request)

    async def write_eof(self) -> None:  # type: ignore[override]  # as aiohttp's own does
        await self._serve()
        await super().write_eof()

    # --- as a connection

    @property
    def unsent_bytes(self) -> int:
        if self._transport is None or self._transport.is_closing():
            return 0
        return self._transport.get_write_buffer_size()

    async def send(self, message: bytes) -> None:
        if self.closed or self._ending is not None:
            raise ConnectionResetError("the channel is closed")
        await self.send_frame(message, WSMsgType.TEXT)

    def end(self, code: CloseCode, reason: str) -> None:
        if self._ending is None and not self.closed:
            farewell = encode(GoElsewhere(reason=reason)) if code in _GOES_ELSEWHERE else b""
            self._ending = asyncio.create_task(self._end(code, reason, farewell))

    async def _end(self, code: CloseCode, reason: str, farewell: bytes) -> None:
        try:
            async with asyncio.timeout(CLOSE_WITHIN_S):
                if farewell:
                    await self.send_frame(farewell, WSMsgType.TEXT)
                await super().close(code=code, message=reason.encode()[:120])
        except (ConnectionError, TimeoutError):
            self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- the conversation

    async def _serve(self) -> None:
        assert self._request is not None, "it is served once its head was sent"
        carriage = Carriage(self._request, self._service.replies, self.send)
        channel = self._channels.opened(_Carrier(self, carriage))
        try:
            await self._converse(channel, carriage)
        except MessageRefusedError as error:
            await self._complain(error)
        except (ConnectionError, TimeoutError):
            self._abort()
        except Exception:
            _log.exception("a channel broke off")
            self._abort()
        finally:
            self._channels.closed(channel)
            carriage.lost()
            if self._ending is not None:
                await asyncio.wait((self._ending,), timeout=CLOSE_WITHIN_S)

    async def _converse(self, channel: Channel, carriage: Carriage) -> None:
        """Take messages until the channel is closed.

        Raises:
            MessageRefusedError, ConnectionError
        """
        first = True
        while True:
            text = await self._next_message(REGISTER_WITHIN_S if first else None)
            if text is None:
                return
            message = _decode(text)
            match message:
                case Register():
                    if not first:
                        await asyncio.sleep(REGISTER_EVERY_S)
                    await self._register(channel, message)
                    first = False
                case _ if first:
                    raise MessageRefusedError("NOT_REGISTERED", "Send a register message first.")
                case Request():
                    carriage.take(message)
                case Result():
                    channel.answer(message)
                case AskFates():
                    if not await self._tell_fates(message):
                        return
                case Leave():
                    await self._leave(channel)
                    return

    async def _next_message(self, within_s: float | None) -> bytes | None:
        """Return the next message; None when there will be no more.

        Raises:
            MessageRefusedError
        """
        try:
            message = await self.receive(timeout=within_s)
        except TimeoutError:
            raise MessageRefusedError(
                "NOT_REGISTERED",
                f"No register message came within {REGISTER_WITHIN_S:g} s.",
                CloseCode.NOT_REGISTERED,
            ) from None
        if message.type is WSMsgType.TEXT:
            return str(message.data).encode(errors="surrogatepass")
        if message.type is WSMsgType.BINARY:
            raise MessageRefusedError("NOT_JSON", "Messages are JSON, in text frames.")
        return None

    async def _register(self, channel: Channel, register: Register) -> None:
        settings = self._channels.settings
        grace_ms = register.grace_ms or int(settings.channel_grace_s * 1000)
        command = RegisterChannel(
            session_id=channel.session_id or register.session_id,
            application_id=_name("applicationId", register.application_id),
            host=_name("host", register.host),
            instance=register.instance,
            resources=tuple(register.resources),
            modes=tuple(mode.value for mode in register.modes),
            modes_of=tuple(tuple(mode.value for mode in own) for own in register.modes_of),
            clean_batch=register.clean_batch,
            grace_ms=grace_ms,
            node_id=self._service.cluster.node_id,
            connection=channel.number,
        )
        try:
            async with self._channels.turns:
                outcome = await self._service.cluster.propose(
                    (command,), timeout_ms=settings.default_timeout_ms
                )
        except (NoQuorumError, OutcomeUnknownError, OverloadedError) as error:
            problem = of_exception(error)
            detail = "the cluster did not answer" if problem is None else problem.detail
            self.end(CloseCode.GO_ELSEWHERE, f"it could not be registered here: {detail}")
            return
        except Exception as error:
            refused = of_exception(error)
            if refused is None:
                raise
            raise MessageRefusedError(refused.code, refused.detail, CloseCode.REFUSED) from None
        only = outcome.outcomes[0]
        if isinstance(only, Rejected):
            close = _CLOSE_OF_REJECTION.get(only.code, CloseCode.BAD_MESSAGE)
            raise MessageRefusedError(only.code.value, only.detail, close)
        assert isinstance(only, Applied)
        assert isinstance(only.result, ChannelRegistered)
        welcome = Welcome(
            session_id=only.result.session_id,
            resumed=only.result.resumed,
            cluster_id=self._service.cluster.status().cluster_id or "",
            node_id=self._service.cluster.node_id,
            heartbeat_ms=int(settings.channel_heartbeat_s * 1000),
            grace_ms=grace_ms,
        )
        await self.send(encode(welcome))
        self._channels.registered(channel, only.result.session_id)

    async def _tell_fates(self, asked: AskFates) -> bool:
        """Say what became of transactions; False when this node cannot know now."""
        cluster, settings = self._service.cluster, self._channels.settings
        try:
            view = await cluster.read(
                Consistency.LINEARIZABLE, timeout_ms=settings.default_timeout_ms
            )
        except NoQuorumError as error:
            self.end(CloseCode.GO_ELSEWHERE, f"fates cannot be told here: {error}")
            return False
        clean_after_ms = int(settings.channel_clean_after_s * 1000)
        state = load_state(view.reader)
        told: list[BranchFate] = []
        for each in asked.branches:
            fate = fate_of(state, view.reader, each.xid, each.branch_id, clean_after_ms)
            told.append(
                BranchFate(
                    xid=each.xid,
                    branch_id=each.branch_id,
                    status=fate.status,
                    may_clean=fate.may_clean,
                )
            )
        await self.send(encode(Fates(request_id=asked.request_id, branches=told)))
        return True

    async def _leave(self, channel: Channel) -> None:
        command = EndChannel(session_id=channel.session_id, connection=channel.number)
        try:
            await self._service.cluster.propose(
                (command,), timeout_ms=self._channels.settings.default_timeout_ms
            )
        except Exception as error:
            # Its grace ends it.
            _log.info("a session could not be ended: %r", error)

    async def _complain(self, error: MessageRefusedError) -> None:
        try:
            await self.send(encode(Complaint(code=error.code, detail=str(error))))
        except ConnectionError:
            return
        self.end(error.close, error.code)


class _Carrier:
    """A stream as a `Channel` sees it."""

    def __init__(self, stream: ChannelStream, carriage: Carriage) -> None:
        self._stream = stream
        self._carriage = carriage

    @property
    def unsent_bytes(self) -> int:
        return self._stream.unsent_bytes

    @property
    def requests(self) -> Sequence[asyncio.Task[None]]:
        return self._carriage.under_way

    async def send(self, message: bytes) -> None:
        await self._stream.send(message)

    def close(self, code: CloseCode, reason: str) -> None:
        self._stream.end(code, reason)


def _decode(text: bytes) -> Incoming:
    """Raises: MessageRefusedError"""
    if len(text) > GREATEST_MESSAGE_BYTES:
        raise MessageRefusedError(
            "MESSAGE_TOO_LARGE",
            f"The message has {len(text)} bytes, at most {GREATEST_MESSAGE_BYTES} are allowed.",
        )
    try:
        return decode(text)
    except Problem as problem:
        raise MessageRefusedError(problem.code, problem.detail) from None


def _name(path: str, text: str) -> str:
    """Raises: MessageRefusedError"""
    try:
        return requests.name(path, text)
    except Problem as problem:
        raise MessageRefusedError(problem.code, problem.detail) from None


# --- who is connected


class ChannelView(Answer, frozen=True, kw_only=True):
    """A session of a resource manager."""

    session_id: int
    application_id: str
    host: str
    instance: str
    resources: list[str]
    modes: list[str]
    node_id: str
    """The node that holds its channel, or held it last."""
    state: str
    """ATTACHED, or DETACHED while it waits for the process to come back."""
    since: int
    """When it came into this state, milliseconds since the epoch."""


class RmChannels:
    """The handlers of `/api/v1/rm`."""

    def __init__(self, service: Service, channels: Channels) -> None:
        self._service = service
        self._channels = channels

    async def channel(self, request: web.Request) -> web.StreamResponse:
        stream = ChannelStream(self._service, self._channels)
        if request.method != "GET" or not stream.can_prepare(request).ok:
            raise Problem(
                "UPGRADE_REQUIRED",
                "This path is a WebSocket: ask for one with Connection, Upgrade, "
                "Sec-WebSocket-Key and version 13.",
            )
        if self._channels.stopping:
            raise Problem("NOT_READY", "The node stops. Connect to another node.")
        if self._channels.is_full:
            raise Problem(
                "TOO_MANY_CHANNELS",
                f"{len(self._channels)} resource managers are connected to this node already. "
                "Connect to another node.",
            )
        return stream

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        view = await self._service.view(request)
        found = list_sessions(view.reader, _after(cursor), limit + 1)
        more = len(found) > limit
        shown = found[:limit]
        page = Page(
            items=[_shown(each) for each in shown],
            next_cursor=encode_cursor(keys.pack_number(shown[-1].session_id)) if more else None,
        )
        return self._service.replies.success(200, page, view.position)


def _after(cursor: str | None) -> int:
    """Raises: InvalidCursorError"""
    packed = b"" if cursor is None else decode_cursor(cursor)
    return min(int.from_bytes(packed[:8], "big"), keys.GREATEST_NUMBER - 1)


def _shown(session: ChannelSession) -> ChannelView:
    return ChannelView(
        session_id=session.session_id,
        application_id=session.application_id,
        host=session.host,
        instance=session.instance,
        resources=list(session.resources),
        modes=list(session.modes),
        node_id=session.node_id,
        state="ATTACHED" if session.is_attached else "DETACHED",
        since=session.since_ms,
    )


def endpoints(service: Service, channels: Channels) -> list[Endpoint]:
    handlers = RmChannels(service, channels)
    described: tuple[type[msgspec.Struct], ...] = (
        Register,
        Result,
        AskFates,
        Leave,
        Welcome,
        Called,
        Fates,
        Request,
        Response,
        Complaint,
        GoElsewhere,
    )
    return [
        Endpoint(
            method="GET",
            path="/api/v1/rm/channel",
            operation="openRmChannel",
            summary="The channel of a resource manager, a WebSocket",
            tag="resource managers",
            handler=handlers.channel,
            answer=None,
            described=described,
            status=101,
            media_type="text/plain",
            errors=("UPGRADE_REQUIRED", "NOT_READY", "TOO_MANY_CHANNELS"),
        ),
        Endpoint(
            method="GET",
            path="/api/v1/rm/sessions",
            operation="listRmSessions",
            summary="Resource managers that are connected, or may come back",
            tag="resource managers",
            handler=handlers.list,
            answer=Page[ChannelView],
            parameters=(*PAGE, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
    ]
