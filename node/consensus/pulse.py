"""Having the loop run soon: asked for any number of times, it runs once."""

from __future__ import annotations

from collections.abc import Callable

from node.consensus.runtime import Runtime


class Pulse:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.beat: Callable[[], None]
        """The loop's body; it calls `began` first."""
        self._scheduled = False
        self._whole = False
        self._stopped = False

    def kick(self) -> None:
        """Run soon, and look after everything."""
        self._whole = True
        self.kick_for_input()

    def kick_for_input(self) -> None:
        """Run soon: a request or frames came, or a sync ended. What these move is looked after."""
        if not self._scheduled and not self._stopped:
            self._scheduled = True
            self._runtime.call_soon(self.beat)

    def kick_after(self, delay_s: float) -> None:
        self._runtime.call_later(delay_s, self.kick)

    def began(self) -> bool:
        """A run begins: whoever kicks from now on wants another one.

        Returns whether it is to look after everything.
        """
        whole, self._whole = self._whole, False
        self._scheduled = False
        return whole

    def stop(self) -> None:
        """Never run again."""
        self._stopped = True
