"""The two times that a leader stamps on entries."""

from __future__ import annotations

from node.consensus.runtime import Runtime
from statemachine.codec import encode_entry
from statemachine.machine import Machine


class Stamps:
    """Wall time for display and hybrid clocks, elapsed time for everything that expires.

    Elapsed time goes on from the last replicated value by the leader's monotonic clock, so time
    without a leader does not count and no timeout fires because of a failover.
    """

    def __init__(self, runtime: Runtime, machine: Machine) -> None:
        self._runtime = runtime
        self._machine = machine
        self._base_ms = 0
        self._base_at: float | None = None
        self._heard_ms = 0
        self._heard_at: float | None = None

    def lead(self) -> None:
        """This node applied its own first entry as leader: time runs from here."""
        self._base_ms = self._machine.elapsed_ms
        self._base_at = self._runtime.monotonic()

    def follow(self) -> None:
        self._base_at = None

    def heard(self, elapsed_ms: int) -> None:
        """A leader said what time it is."""
        self._heard_ms = elapsed_ms
        self._heard_at = self._runtime.monotonic()

    def elapsed_ms(self) -> int:
        """The best estimate of the cluster's elapsed time; exact on a leader."""
        if self._base_at is not None:
            return self._base_ms + int((self._runtime.monotonic() - self._base_at) * 1000)
        applied = self._machine.elapsed_ms
        if self._heard_at is None:
            return applied
        since = int((self._runtime.monotonic() - self._heard_at) * 1000)
        return max(applied, self._heard_ms + since)

    def entry(self, units: list[bytes]) -> bytes:
        return encode_entry(self._runtime.wall_ms(), self.elapsed_ms(), units)
