"""What the engine tells whoever owns it. The owner replaces what it wants to hear."""

from __future__ import annotations

from collections.abc import Callable

from node.consensus.membership import Configuration
from node.consensus.messages import Frame
from node.consensus.runtime import Runtime


class Notices:
    def __init__(self, runtime: Runtime) -> None:
        self.on_diverged: Callable[[], None] = lambda: runtime.stop("the state diverged")
        """This node's state is damaged, or is not the majority's."""
        self.on_regressed: Callable[[], None] = lambda: runtime.stop(
            "the disk holds less than this node acknowledged; empty it to rejoin"
        )
        self.on_clock_sample: Callable[[str, int, int], None] = lambda _peer, _wall, _trip: None
        """On a leader: a peer, its wall clock in ms and the round trip in ms."""
        self.on_channel_frame: Callable[[str, Frame], None] = lambda _peer, _frame: None
        """A member calls a resource manager that is connected here, or answers such a call."""
        self.on_configuration: list[Callable[[Configuration], None]] = []
        """A membership is in force, or the one before it is again."""
        self.on_role_change: list[Callable[[], None]] = []
        """This node leads, or follows, or may serve now."""
        self.on_applied: list[Callable[[], None]] = []
        """The state has changed: entries were applied, or a snapshot was installed."""

    def role_changed(self) -> None:
        for callback in self.on_role_change:
            callback()

    def applied(self) -> None:
        for callback in self.on_applied:
            callback()
