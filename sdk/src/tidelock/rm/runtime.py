"""The resource manager of a process: its session, and what the coordinator has done in it.

It lives on the loop of the application's own thread, and begins with the first resource; in a child
process, with the first use. `tidelock.Application` owns it.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import trsock
from typing import Final

from tidelock.client.transport import INHERITED, Transport
from tidelock.rm.dispatch import Dispatcher
from tidelock.rm.fates import Fates
from tidelock.rm.health import Health
from tidelock.rm.roster import Roster
from tidelock.rm.session import Identity, NoSessionError, Session
from tidelock.rm.workers import workers

SESSION_WITHIN_MS: Final = 5_000
DRAIN_MS: Final = 10_000

_END_S: Final = 2.0
"""How long resources may take at least to roll back what ends with the session."""


class Runtime:
    """One for each loop of an application: another one in a child process."""

    def __init__(self, transport: Transport, roster: Roster, who: Identity) -> None:
        self._roster = roster
        self._dispatcher = Dispatcher(roster)
        self.fates = Fates()
        self._session = Session(transport, roster, self._dispatcher, self.fates, who)
        self._task: asyncio.Task[None] | None = None

    def changed(self) -> None:
        """Take in that the roster has changed; begin with the first resource. On the loop."""
        if self._task is None and len(self._roster):
            self._task = asyncio.create_task(self._session.run(), name="tidelock channel")
        self._session.changed()

    def known_session(self, revision: int, ended: int) -> int:
        """Return the session, 0 unless the cluster knows the roster of this revision; not one that
        has ended. From any thread.
        """
        standing = self._session.standing
        return standing.session_id if standing.knows(revision, ended) else 0

    @property
    def cluster_id(self) -> str:
        """The cluster of the session, empty while there is none. From any thread."""
        return self._session.standing.cluster_id

    async def session_id(self, revision: int, ended: int, timeout_ms: int) -> int:
        """Return the session once the cluster knows the roster of this revision. On the loop.

        Raises:
            NoSessionError: not in time.
        """
        if not len(self._roster):
            raise NoSessionError("no resource is attached to this application: attach one first")
        self.changed()
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await self._session.registered(revision, ended)
        except TimeoutError:
            why = self._session.last_failure or "no node answered"
            raise NoSessionError(
                f"no node registered this process within {timeout_ms} ms; the last said: {why}"
            ) from None

    async def close(self, drain_ms: int) -> None:
        """Let what is under way come to its end, end the session, and hang up. On the loop."""
        await self._dispatcher.drain(drain_ms / 1000)
        await self._session.leave()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._session.end(max(_END_S, drain_ms / 1000))
        await self._dispatcher.abandon()

    def health(self) -> Health:
        """Return how it stands. From any thread."""
        session, dispatcher, threads = self._session, self._dispatcher, workers()
        return Health(
            connected=session.is_connected,
            session_id=session.standing.session_id or None,
            node=session.node_id or None if session.is_connected else None,
            resources=len(self._roster),
            waiting=dispatcher.waiting,
            running=dispatcher.running,
            oldest_ms=dispatcher.oldest_ms,
            results={
                (kind.value, status.value): count
                for (kind, status), count in dispatcher.results.items()
            },
            repeated=dispatcher.counts["repeated"],
            stale=dispatcher.counts["stale"],
            refused=dispatcher.counts["refused"],
            errors=dispatcher.counts["errors"],
            connections=session.welcomes,
            sessions_lost=session.lost,
            worker_threads=threads.threads,
            worker_jobs_waiting=threads.waiting,
            last_failure=session.last_failure,
        )

    def forsake(self) -> None:
        """In a child process: leave it to the parent.

        The child has the parent's connection open as well. A node would hear nothing of the
        parent's death as long as the child lived; so here it becomes a file without anything in it.
        """
        INHERITED.append(self)
        connection = self._session.connection
        descriptor = None if connection is None else connection.descriptor
        # Only asyncio's own socket knows that it was closed, and its number another's by now.
        if isinstance(descriptor, trsock.TransportSocket) and descriptor.fileno() >= 0:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, descriptor.fileno(), inheritable=False)
            os.close(nothing)
