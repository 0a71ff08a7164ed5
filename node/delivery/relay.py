"""From the leader to a resource manager through the node that it is connected to, and back.

A call that gets no answer is sent again under the same number, so a frame that was lost with its
connection costs little; the node that has the channel knows the number while the call is under way.
After that the manager may be called again: it answers the same.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from api.channels import ChannelBusyError, ChannelGoneError, Channels
from api.rm_messages import CallKind
from node.consensus.messages import GREATEST_CALL_BYTES, GREATEST_DETAIL, Frame, Kind
from node.consensus.runtime import Runtime, Timer
from node.delivery.calls import Cancel
from node.delivery.leader import Leader
from statemachine.transactions.channel_rows import ChannelSession

RESEND_S: Final = 1.0

GREATEST_SERVED: Final = 10_000
"""Calls of other nodes that are under way at this one."""


class Outcome(enum.StrEnum):
    """What became of a call on its way."""

    ANSWERED = ""
    GONE = "GONE"
    """The session has no such connection there: it moved, or is waited for."""
    BUSY = "BUSY"
    """The manager, or the node on the way, has as many calls as it takes."""
    TIMEOUT = "TIMEOUT"
    UNREACHABLE = "UNREACHABLE"
    """The node on the way cannot be reached."""
    STALE = "STALE"
    """Another node has led since."""
    TOO_LARGE = "TOO_LARGE"


class ManagerReply(msgspec.Struct, frozen=True):
    """What came back."""

    outcome: Outcome
    status: str = ""
    """Of `api.rm_messages.ResultStatus`, when it is answered."""
    detail: str = ""
    not_found: bool = False


OnReply = Callable[[ManagerReply], None]


class Holder(Protocol):
    """The channels that are open at this node."""

    def call(
        self,
        session_id: int,
        connection: int,
        kind: CallKind,
        called: bytes,
        timeout_s: float,
        on_reply: OnReply,
    ) -> Cancel:
        """Call a resource manager; `on_reply` is called once, and never from here."""


class OpenChannels:
    """`Holder` over the channels of the API."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._tasks: set[asyncio.Task[None]] = set()

    def call(
        self,
        session_id: int,
        connection: int,
        kind: CallKind,
        called: bytes,
        timeout_s: float,
        on_reply: OnReply,
    ) -> Cancel:
        async def run() -> None:
            try:
                result = await self._channels.call(session_id, connection, kind, called, timeout_s)
            except ChannelGoneError as error:
                on_reply(ManagerReply(Outcome.GONE, detail=str(error)))
            except ChannelBusyError as error:
                on_reply(ManagerReply(Outcome.BUSY, detail=str(error)))
            except TimeoutError:
                on_reply(ManagerReply(Outcome.TIMEOUT))
            else:
                detail = result.detail or ""
                on_reply(
                    ManagerReply(Outcome.ANSWERED, result.status.value, detail, result.not_found)
                )

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def cancel() -> None:
            task.cancel()

        return cancel


@dataclass(slots=True)
class _Asked:
    """A call that this node makes through another one."""

    node_id: str
    frame: Frame
    ends_at: float
    on_reply: OnReply
    timer: Timer | None = None


class Relay:
    def __init__(self, engine: Leader, runtime: Runtime, holder: Holder) -> None:
        self._engine = engine
        self._runtime = runtime
        self._holder = holder
        self._node_id = engine.identity.node_id
        # Drawn, so that no answer to an earlier run of this node is taken for one of ours.
        self._last_number = int.from_bytes(runtime.random_bytes(7), "big")
        self._asked: dict[int, _Asked] = {}
        self._served: dict[tuple[str, int], Cancel] = {}
        engine.notices.on_channel_frame = self._on_frame

    @property
    def under_way(self) -> int:
        return len(self._asked)

    # --- the leader's side

    def ask(
        self,
        session: ChannelSession,
        kind: CallKind,
        called: bytes,
        epoch: int,
        timeout_s: float,
        on_reply: OnReply,
    ) -> Cancel:
        """Call the resource manager of a session; `on_reply` is called once, never from here."""
        if len(called) > GREATEST_CALL_BYTES:
            return self._reply_soon(on_reply, Outcome.TOO_LARGE)
        if session.node_id == self._node_id:
            return self._holder.call(
                session.session_id, session.connection, kind, called, timeout_s, on_reply
            )
        self._last_number += 1
        number = self._last_number
        frame = (
            int(Kind.CHANNEL_CALL), number, epoch, session.session_id, session.connection,
            kind.value, int(timeout_s * 1000), called,
        )  # fmt: skip
        if not self._engine.send_channel_frame(session.node_id, frame):
            return self._reply_soon(on_reply, Outcome.UNREACHABLE)
        ends_at = self._runtime.monotonic() + timeout_s
        asked = self._asked[number] = _Asked(session.node_id, frame, ends_at, on_reply)
        self._wait(number, asked)

        def cancel() -> None:
            self._forget(number)

        return cancel

    def _reply_soon(self, on_reply: OnReply, outcome: Outcome) -> Cancel:
        return self._runtime.call_later(0.0, lambda: on_reply(ManagerReply(outcome))).cancel

    def _wait(self, number: int, asked: _Asked) -> None:
        left_s = asked.ends_at - self._runtime.monotonic()
        asked.timer = self._runtime.call_later(
            max(0.0, min(left_s, RESEND_S)), lambda: self._ask_again(number, asked)
        )

    def _ask_again(self, number: int, asked: _Asked) -> None:
        """Nothing was heard for a while: the frame, or its answer, may be lost."""
        if self._runtime.monotonic() >= asked.ends_at:
            self._answered(number, ManagerReply(Outcome.TIMEOUT))
        elif self._engine.send_channel_frame(asked.node_id, asked.frame):
            self._wait(number, asked)
        else:
            self._answered(number, ManagerReply(Outcome.UNREACHABLE))

    def _forget(self, number: int) -> _Asked | None:
        asked = self._asked.pop(number, None)
        if asked is not None and asked.timer is not None:
            asked.timer.cancel()
        return asked

    def _answered(self, number: int, reply: ManagerReply) -> None:
        asked = self._forget(number)
        if asked is not None:
            asked.on_reply(reply)

    # --- frames

    def _on_frame(self, peer: str, frame: Frame) -> None:
        if frame[0] == Kind.CHANNEL_CALL:
            self._serve(peer, frame)
            return
        _, number, outcome, status, detail, not_found = frame
        asked = self._asked.get(number)
        if asked is None or asked.node_id != peer:
            return
        try:
            reply = ManagerReply(Outcome(outcome), status, detail, not_found)
        except ValueError:
            # A newer node's word: nobody knows what was done.
            reply = ManagerReply(Outcome.TIMEOUT, detail=f"{peer} says {outcome}")
        self._answered(number, reply)

    # --- the side of the node that has the channel

    def _serve(self, peer: str, frame: Frame) -> None:
        _, number, epoch, session_id, connection, what, wait_ms, called = frame
        key = (peer, number)
        if key in self._served:
            return
        try:
            kind = CallKind(what)
        except ValueError:
            self._tell(peer, number, ManagerReply(Outcome.GONE, detail="an unknown call"))
            return
        if epoch < self._engine.raft.term:
            self._tell(peer, number, ManagerReply(Outcome.STALE))
        elif len(self._served) >= GREATEST_SERVED or not called.startswith(b'{"'):
            self._tell(peer, number, ManagerReply(Outcome.BUSY))
        else:
            self._served[key] = self._holder.call(
                session_id,
                connection,
                kind,
                called,
                wait_ms / 1000,
                lambda reply: self._served_one(key, reply),
            )

    def _served_one(self, key: tuple[str, int], reply: ManagerReply) -> None:
        self._served.pop(key, None)
        self._tell(*key, reply)

    def _tell(self, peer: str, number: int, reply: ManagerReply) -> None:
        detail = reply.detail[:GREATEST_DETAIL]
        self._engine.send_channel_frame(
            peer,
            (
                int(Kind.CHANNEL_RESULT), number, reply.outcome.value, reply.status, detail,
                reply.not_found,
            ),
        )  # fmt: skip

    def close(self) -> None:
        """Wait for no answer any more."""
        for number in list(self._asked):
            self._forget(number)
        for cancel in self._served.values():
            cancel()
        self._served.clear()
