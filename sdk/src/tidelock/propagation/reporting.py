"""A participant of the cluster's synchronisation rounds, in the background.

::

    with ClockReporter(application):
        serve()

At each beat the clocks are reported, and what closed rounds have as their target is taken and
acknowledged. A cluster that does not answer is asked again at the next beat.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from types import TracebackType
from typing import Final, Self

from tidelock.application import Application
from tidelock.client import Client
from tidelock.client.answers import SyncStatus
from tidelock.clocks import ClockError
from tidelock.errors import TidelockError
from tidelock.participant_clocks import ParticipantClocks

_log: Final = logging.getLogger("tidelock.propagation")

ROUNDS_LOOKED_AT: Final = 10
"""Closed rounds of which an unanswered one is found."""

FIRST_PAUSE_S: Final = 1.0
"""Between beats while the cluster has not yet said how often its rounds close."""


class ClockReporter:
    """Reports clocks until it is stopped. A forked process needs one of its own."""

    def __init__(
        self,
        application: Application,
        clocks: ParticipantClocks | None = None,
        *,
        interval_ms: int | None = None,
    ) -> None:
        """Report the application's clocks, unless others are given.

        A beat is every `interval_ms`, unless given as often as the cluster closes rounds. Who is
        silent for three of the cluster's intervals counts no more.

        Raises:
            ValueError: there are no clocks, or the interval is not above 0.
        """
        found = application.clocks if clocks is None else clocks
        if found is None:
            raise ValueError("no clocks to report: give them here, or to the application")
        if interval_ms is not None and interval_ms <= 0:
            raise ValueError(f"an interval is at least 1 ms, got {interval_ms}")
        self._application = application
        self._clocks: Final = found
        self._pause_s = FIRST_PAUSE_S if interval_ms is None else interval_ms / 1_000
        self._follows = interval_ms is None
        self._running: Future[None] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin, unless it has begun.

        Raises:
            ClientClosedError: the application is closed.
        """
        if self._running is None:
            self._running = self._application.client.submit(self._run)

    def stop(self) -> None:
        """End, unless it has ended."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    async def _run(self, client: Client) -> None:
        while True:
            try:
                await self._beat(client)
            except (TidelockError, ClockError) as error:
                _log.warning("clocks were not synchronised, which is tried again: %s", error)
            await asyncio.sleep(self._pause_s)

    async def _beat(self, client: Client) -> None:
        name = self._clocks.participant
        reading = self._clocks.read()
        await client.synchronisation.report(
            name,
            lamport=0 if reading.lamport is None else reading.lamport.time,
            vector=None if reading.vector is None else dict(reading.vector.entries),
        )
        status = await client.synchronisation.status(rounds=ROUNDS_LOOKED_AT)
        if self._follows:
            self._pause_s = status.interval_ms / 1_000
        for number in self._take(status):
            await client.synchronisation.acknowledge(number, name)

    def _take(self, status: SyncStatus) -> list[int]:
        """Take the targets that were not yet acknowledged, and return their rounds."""
        taken = []
        for closed in reversed(status.rounds):
            for node in closed.nodes:
                if node.node_id == self._clocks.participant and not node.acknowledged:
                    self._clocks.take(closed.target_lamport, closed.target_vector)
                    taken.append(closed.round)
        return taken
