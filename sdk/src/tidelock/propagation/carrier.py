"""What the hooks of all frameworks do: read what arrives, write what leaves.

A hook is made when a server or client is, often before the application is configured. So it asks
for the configured application at each request, unless it was given one of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from tidelock.allowed_hosts import AllowedHosts
from tidelock.application import Application, NotConfiguredError, configured
from tidelock.clocks import ClockError
from tidelock.participant_clocks import ClockReading, ParticipantClocks
from tidelock.propagation.headers import (
    GREATEST_CLOCK_TEXT,
    LAMPORT,
    VECTOR,
    XID,
    Find,
    RefusedRequestError,
    clock_text,
    read_clocks,
    read_xid,
)
from tidelock.transaction.context import current_xid

_log: Final = logging.getLogger("tidelock.propagation")

_NOBODY: Final = AllowedHosts()
_GREATEST_REMEMBERED: Final = 1_000


class Arrival:
    """What a request brought."""

    def __init__(self, xid: str | None, clocks: ParticipantClocks | None) -> None:
        self.xid: Final = xid
        self._clocks: Final = clocks
        """Those that its answer carries: only who sent clocks is sent any."""

    @property
    def answers_clocks(self) -> bool:
        """Whether the answer has headers of its own."""
        return self._clocks is not None

    def answer(self) -> list[tuple[str, str]]:
        """Return the headers of the answer, whose sending is an event."""
        return [] if self._clocks is None else _written(self._clocks)


class Carrier:
    """Reads and writes headers for one server or client."""

    def __init__(
        self,
        application: Application | None = None,
        *,
        hosts: Iterable[str] | None = None,
        clocks: ParticipantClocks | None = None,
    ) -> None:
        """Use an application's hosts and clocks, the configured one's unless given.

        `hosts` and `clocks` replace the application's.

        Raises:
            ValueError: a host is none.
        """
        self._application = application
        self._hosts = None if hosts is None else AllowedHosts(hosts)
        self._clocks = clocks
        self._told: set[tuple[str, int | None]] = set()

    def arrive(self, find: Find) -> Arrival:
        """Return the xid of a request, and take its clocks.

        Raises:
            RefusedRequestError: it is to be answered 400.
        """
        xid = read_xid(find)
        clocks = self._participant()
        if clocks is None:
            return Arrival(xid, None)
        try:
            received = read_clocks(find)
            if received == ClockReading(None, None):
                return Arrival(xid, None)
            clocks.receive(received)
        except ClockError as error:
            raise RefusedRequestError(
                "CLOCK_MALFORMED", "A clock of the request cannot be taken", str(error)
            ) from None
        return Arrival(xid, clocks)

    def leave(self, host: str, port: int | None) -> list[tuple[str, str]]:
        """Return the headers for a request to a host: none unless the host is listed.

        Whatever of `headers.NAMED` the request has already is to be taken off first: it may have
        come along from a request that was redirected.
        """
        xid = current_xid()
        clocks = self._participant()
        if xid is None and clocks is None:
            return []
        if not self._allowed().includes(host, port):
            if xid is not None:
                self._tell(host, port)
            return []
        headers = [] if xid is None else [(XID, xid)]
        return headers if clocks is None else headers + _written(clocks)

    @property
    def hears(self) -> bool:
        """Whether clocks are kept here."""
        return self._participant() is not None

    def hear(self, find: Find) -> None:
        """Take the clocks of an answer. What is done is done: those that are none are logged."""
        clocks = self._participant()
        if clocks is None:
            return
        try:
            received = read_clocks(find)
            if received != ClockReading(None, None):
                clocks.receive(received)
        except ClockError as error:
            _log.warning("the clocks of an answer were left out: %s", error)

    def _participant(self) -> ParticipantClocks | None:
        if self._clocks is not None:
            return self._clocks
        application = self._found()
        return None if application is None else application.clocks

    def _allowed(self) -> AllowedHosts:
        if self._hosts is not None:
            return self._hosts
        application = self._found()
        return _NOBODY if application is None else application.propagate_to

    def _found(self) -> Application | None:
        if self._application is not None:
            return self._application
        try:
            return configured()
        except NotConfiguredError:
            return None

    def _tell(self, host: str, port: int | None) -> None:
        """Say once for each host that it is not told: it may have been forgotten in the list."""
        if (host, port) in self._told or len(self._told) >= _GREATEST_REMEMBERED:
            return
        self._told.add((host, port))
        _log.warning(
            "calls to %s within a transaction are no part of it: the host is not in "
            "`propagate_to` of the application, nor in `hosts` of this client",
            host if port is None else f"{host}:{port}",
        )


def _written(clocks: ParticipantClocks) -> list[tuple[str, str]]:
    """Count a sending, and return its clocks as headers."""
    reading = clocks.tick()
    headers = []
    for name, clock in ((LAMPORT, reading.lamport), (VECTOR, reading.vector)):
        if clock is None:
            continue
        text = clock_text(clock)
        if text is None:
            _log.error(
                "%s is left out: it is longer than %d characters; have departed participants "
                "pruned (tidelock.clocks.pruning)",
                name,
                GREATEST_CLOCK_TEXT,
            )
            continue
        headers.append((name, text))
    return headers
