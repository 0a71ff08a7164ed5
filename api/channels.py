"""The channels of resource managers that are open at this node, and the calls under way on them.

Whether a channel still has its session is decided by the replicated state. What is found there is
put right again and again, in both directions: a session whose connection is gone is detached, a
connection whose session is gone is closed. So nothing that was missed is missed for long, whoever
stopped or was restarted in between.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api.cluster import Cluster, Consistency
from api.rm_messages import (
    EXPECTED,
    GREATEST_DETAIL,
    CallKind,
    CloseCode,
    Result,
    call_message,
)
from api.settings import ApiSettings
from statemachine.commands import AttachChannel, DetachChannels
from statemachine.store import DamagedStateError, Reader
from statemachine.transactions.channel_rows import get_session, sessions_of_node

GREATEST_CALLS: Final = 1_000
"""Calls under way on one channel."""

GREATEST_UNSENT_BYTES: Final = 1 << 20
"""Who has more of it waiting gets no further call."""

GREATEST_STRAYS: Final = 10_000
"""Results in a row that answer nothing: of calls that were given up, and a few more."""

REGISTERING_AT_ONCE: Final = 32
"""Registrations of this node that are proposed at a time; the others wait for their turn."""

_KEEP_EVERY_S: Final = 0.5
_PROPOSE_TIMEOUT_MS: Final = 2_000
_DETACHED_AT_ONCE: Final = 500

_log: Final = logging.getLogger(__name__)


class ChannelGoneError(Exception):
    """The connection is gone, or was never here: another node may have the session."""


class ChannelBusyError(Exception):
    """The resource manager has as many calls as it takes."""


class MessageRefusedError(Exception):
    """A resource manager said what it may not say. The channel is closed with this."""

    def __init__(self, code: str, detail: str, close: CloseCode = CloseCode.BAD_MESSAGE) -> None:
        super().__init__(detail)
        self.code = code
        self.close = close


class Connection(Protocol):
    """What carries a channel."""

    @property
    def unsent_bytes(self) -> int: ...

    @property
    def requests(self) -> Sequence[asyncio.Task[None]]:
        """Those of the resource manager that are under way, each ended by its answer."""

    async def send(self, message: bytes) -> None:
        """Raises: ConnectionError"""

    def close(self, code: CloseCode, reason: str) -> None:
        """Begin to end it, soon and whatever waits; the first reason counts."""


class _Call:
    __slots__ = ("answered", "kind")

    def __init__(self, kind: CallKind) -> None:
        self.kind = kind
        self.answered: asyncio.Future[Result] = asyncio.get_running_loop().create_future()


class Channel:
    """One connection of a resource manager."""

    def __init__(self, connection: Connection, since: float) -> None:
        self.connection = connection
        self.number = secrets.randbits(62)
        """Names the connection in the state; no other one has it, of no run of any node."""
        self.since = since
        self.session_id = 0
        """0 until it is registered."""
        self.welcomed = asyncio.Event()
        """Set once it is, and when it never will be."""
        self._calls: dict[int, _Call] = {}
        self._last_request = 0
        self._strays = 0

    @property
    def calls(self) -> list[asyncio.Future[Result]]:
        """The answers that are waited for."""
        return [call.answered for call in self._calls.values()]

    async def call(self, kind: CallKind, called: bytes, timeout_s: float) -> Result:
        """Ask the resource manager, and wait for its answer.

        Raises:
            ChannelGoneError, ChannelBusyError, TimeoutError
        """
        unsent = self.connection.unsent_bytes
        if len(self._calls) >= GREATEST_CALLS or unsent > GREATEST_UNSENT_BYTES:
            raise ChannelBusyError(f"{len(self._calls)} calls and {unsent} bytes wait")
        self._last_request += 1
        number = self._last_request
        call = self._calls[number] = _Call(kind)
        try:
            async with asyncio.timeout(timeout_s):
                await self.connection.send(call_message(kind, number, called))
                return await call.answered
        except ConnectionError as error:
            raise ChannelGoneError(str(error)) from error
        finally:
            del self._calls[number]

    def answer(self, result: Result) -> None:
        """Take a result. One that answers nothing is late, repeated, or meant for somebody else.

        Raises:
            MessageRefusedError: it does not answer what was asked, or there are too many of them.
        """
        call = self._calls.get(result.request_id)
        if call is None or call.answered.done():
            self._strays += 1
            if self._strays > GREATEST_STRAYS:
                raise MessageRefusedError(
                    "TOO_MANY_STRAY_RESULTS",
                    f"More than {GREATEST_STRAYS} results answer no call that waits.",
                )
            return
        if result.status not in EXPECTED[call.kind]:
            expected = ", ".join(sorted(EXPECTED[call.kind]))
            raise MessageRefusedError(
                "STATUS_UNEXPECTED",
                f"status {result.status} answers no {call.kind}. Send one of {expected}.",
            )
        self._strays = 0
        detail = (result.detail or "")[:GREATEST_DETAIL]
        call.answered.set_result(msgspec.structs.replace(result, detail=detail))

    def break_off(self) -> None:
        """Let nobody wait any longer: the connection is gone."""
        for call in self._calls.values():
            if not call.answered.done():
                call.answered.set_exception(ChannelGoneError("the connection was lost"))


class Channels:
    """All channels of one node."""

    def __init__(self, cluster: Cluster, settings: ApiSettings) -> None:
        self._cluster = cluster
        self.settings = settings
        self._open: dict[int, Channel] = {}
        self._by_session: dict[int, Channel] = {}
        self._task: asyncio.Task[None] | None = None
        self.stopping = False
        self.turns = asyncio.Semaphore(REGISTERING_AT_ONCE)
        """Of registrations, so that a crowd that comes at once leaves room for others."""
        self.counts: Counter[str] = Counter()
        """Calls by what they came to."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_full(self) -> bool:
        return len(self._open) >= self.settings.greatest_channels

    def start(self) -> None:
        """Keep the state and the connections together from now on.

        A node does it before anybody connects: it may hold sessions of its last run, and nobody
        else gives them up when it was away so briefly that no one noticed.
        """
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._keep(), name="channels")

    # --- connections

    def opened(self, connection: Connection) -> Channel:
        channel = Channel(connection, asyncio.get_running_loop().time())
        self._open[channel.number] = channel
        self.start()
        return channel

    def registered(self, channel: Channel, session_id: int) -> None:
        """A connection has a session now; whichever had it before has it no longer."""
        before = self._by_session.get(session_id)
        if before is not None and before is not channel:
            before.connection.close(CloseCode.REPLACED, "the session has a newer connection")
        channel.session_id = session_id
        self._by_session[session_id] = channel
        channel.welcomed.set()

    def closed(self, channel: Channel) -> None:
        self._open.pop(channel.number, None)
        if self._by_session.get(channel.session_id) is channel:
            del self._by_session[channel.session_id]
        channel.welcomed.set()
        channel.break_off()

    async def call(
        self, session_id: int, connection: int, kind: CallKind, called: bytes, timeout_s: float
    ) -> Result:
        """Call the resource manager that has this session by this connection.

        Raises:
            ChannelGoneError, ChannelBusyError, TimeoutError
        """
        channel = self._open.get(connection)
        if channel is not None and not channel.welcomed.is_set():
            # The leader has applied its registration, and this node is about to.
            async with asyncio.timeout(timeout_s):
                await channel.welcomed.wait()
        if channel is None or self._by_session.get(session_id) is not channel:
            self.counts["gone"] += 1
            raise ChannelGoneError("the session has no such connection at this node")
        try:
            result = await channel.call(kind, called, timeout_s)
        except (ChannelGoneError, ChannelBusyError, TimeoutError) as error:
            self.counts[_OUTCOMES[type(error)]] += 1
            raise
        self.counts[result.status.value.lower()] += 1
        return result

    # --- the end

    async def close(self) -> None:
        """Let calls under way come to their end, then send everybody elsewhere."""
        self.stopping = True
        under_way: list[asyncio.Future[Any]] = []  # of whatever
        for each in self._open.values():
            under_way += [*each.calls, *each.connection.requests]
        if under_way:
            await asyncio.wait(under_way, timeout=self.settings.channel_drain_s)
        held = [(each.session_id, number) for number, each in self._open.items()]
        self._dismiss(CloseCode.STOPPING, f"{self._cluster.node_id} stops")
        if self._task is not None:
            self._task.cancel()
        try:
            await self._detach([each for each in held if each[0]])
        except Exception as error:
            # The others find it out: the node has failed, or is back without them.
            _log.info("sessions could not be detached: %r", error)

    def _dismiss(self, code: CloseCode, reason: str) -> None:
        for channel in list(self._open.values()):
            channel.connection.close(code, reason)

    # --- what the state says

    async def _keep(self) -> None:
        """Compare what is open with what is replicated, for as long as this node runs."""
        while True:
            await asyncio.sleep(_KEEP_EVERY_S)
            try:
                await self.keep()
            except DamagedStateError as error:
                self._cluster.report_damage(error)
            except Exception as error:
                # No leader, or unknown: the next time shows what is left.
                _log.info("keeping channels was interrupted: %r", error)

    async def keep(self) -> None:
        """Put right whatever differs between the connections and the state.

        Raises:
            Exceptions of `Cluster.propose`, DamagedStateError
        """
        self._leave_without_leader()
        view = await self._cluster.read(Consistency.LOCAL, timeout_ms=_PROPOSE_TIMEOUT_MS)
        node_id = self._cluster.node_id
        held = sessions_of_node(view.reader, node_id, limit=2 * self.settings.greatest_channels)
        attached = {each.session_id: each.connection for each in held}
        again = [
            AttachChannel(session_id=channel.session_id, node_id=node_id, connection=channel.number)
            for channel in list(self._by_session.values())
            if attached.get(channel.session_id) != channel.number
            and self._lost(view.reader, channel)
        ]
        gone = [(session, number) for session, number in attached.items() if not self._has(number)]
        await self._detach(gone)
        if again:
            await self._cluster.propose(again, timeout_ms=_PROPOSE_TIMEOUT_MS)

    def _has(self, number: int) -> bool:
        return number in self._open

    def _lost(self, reader: Reader, channel: Channel) -> bool:
        """Close a connection that has its session no longer; True when it can have it again."""
        session = get_session(reader, channel.session_id)
        if session is None:
            channel.connection.close(CloseCode.SESSION_ENDED, "the session has ended")
        elif (session.node_id, session.connection) != (self._cluster.node_id, channel.number):
            channel.connection.close(CloseCode.REPLACED, "the session has a newer connection")
        else:
            return not session.is_attached
        return False

    def _leave_without_leader(self) -> None:
        leaderless_s = self.settings.channel_leaderless_s
        confirmed_ms = self._cluster.status().quorum_confirmed_ms
        if confirmed_ms is not None and confirmed_ms <= leaderless_s * 1000:
            return
        reason = (
            f"no leader was confirmed to {self._cluster.node_id} for {leaderless_s:g} s; connect "
            "to another node"
        )
        since = asyncio.get_running_loop().time() - leaderless_s
        for channel in list(self._open.values()):
            if channel.since <= since:
                channel.connection.close(CloseCode.GO_ELSEWHERE, reason)

    async def _detach(self, gone: list[tuple[int, int]]) -> None:
        for at in range(0, len(gone), _DETACHED_AT_ONCE):
            part = tuple(gone[at : at + _DETACHED_AT_ONCE])
            command = DetachChannels(node_id=self._cluster.node_id, connections=part)
            await self._cluster.propose((command,), timeout_ms=_PROPOSE_TIMEOUT_MS)


_OUTCOMES: Final[dict[type[Exception], str]] = {
    ChannelGoneError: "gone",
    ChannelBusyError: "busy",
    TimeoutError: "timeout",
}


class ChannelsCollector(Collector):
    """How many channels are open, and what calls on them came to."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "tidelock_rm_channels",
            "Resource managers that are connected to this node.",
            value=len(self._channels),
        )
        calls = CounterMetricFamily(
            "tidelock_rm_calls",
            "Calls of resource managers by this node.",
            labels=("outcome",),
        )
        for outcome, count in sorted(self._channels.counts.items()):
            calls.add_metric((outcome,), count)
        yield calls
