"""Connections between nodes: ordered frames to each peer, lost only when a connection is.

Each node dials each peer and sends on the connection that it dialled; what it receives comes on
the connections that it accepted. The newest accepted connection of a peer wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from node.consensus.messages import Frame, RefusalReason


class LinkEvents(Protocol):
    """What a link layer reports."""

    def hello(self, peer: str) -> Frame:
        """The first frame of a connection that this node dialled to reach `peer`."""

    def admit(self, hello: Frame) -> RefusalReason | None:
        """Judge a peer that dialled: None admits it."""

    def on_connected(self, peer: str) -> None:
        """Frames can be sent to `peer`: this node's own connection to it is up."""

    def on_disconnected(self, peer: str) -> None: ...

    def on_refused(self, peer: str, reason: RefusalReason) -> None:
        """`peer` did not admit this node."""

    def on_frame(self, peer: str, frame: Frame) -> None: ...

    def on_frames_end(self) -> None:
        """Everything that was read in one go has been handed over."""


class Links(Protocol):
    def report_to(self, events: LinkEvents) -> None:
        """Say once, before peers are set, who hears of connections and frames."""

    def set_peers(self, addresses: Mapping[str, str]) -> None:
        """Keep connections to these peers (id to `host:port`), and to no others."""

    def send(self, peer: str, *frames: Frame) -> bool:
        """Write frames to `peer`; False when there is no connection (they are dropped)."""

    def is_connected(self, peer: str) -> bool: ...

    def buffered_bytes(self, peer: str) -> int:
        """Bytes accepted by `send` that the network has not taken yet."""

    def probe(self, peer: str, on_result: Callable[[bool], None]) -> None:
        """Dial `peer` now and report whether the dial was *refused*: nothing listens there."""

    def close(self) -> None: ...
