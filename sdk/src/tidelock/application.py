"""One process's part in global transactions: how it reaches the cluster, and what it has.

A service says once who it is::

    tidelock.configure(tidelock.Application(["http://127.0.0.1:7101"], application_id="orders"))

after which `@global_transaction`, the modes and the middlewares find the application by
themselves. Tests, and processes that are several applications, make `Application`s of their own
and pass them on.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import socket
import ssl
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tidelock.allowed_hosts import AllowedHosts
from tidelock.calls import Awaiting, Blocking, Calls
from tidelock.client import BlockingClient, Client
from tidelock.errors import ChannelSessionEndedError, ClientClosedError, TidelockError
from tidelock.participant_clocks import ParticipantClocks
from tidelock.rm.health import Health
from tidelock.rm.resource import Fate, Mode, Resource
from tidelock.rm.roster import Roster
from tidelock.rm.runtime import DRAIN_MS, SESSION_WITHIN_MS, Runtime
from tidelock.rm.session import Identity, checked_grace

_DRAIN_AT_EXIT_MS: Final = 3_000
_AT_EXIT_S: Final = 5.0

T = TypeVar("T")


class NotConfiguredError(TidelockError):
    """No application was configured in this process: call `tidelock.configure` at its start."""


class Application:
    """The connection of a process to its cluster, and the resources that it manages.

    It belongs to a process, not to a loop: threads and tasks of any loop share it, and a child
    process begins anew with connections and a session of its own.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        application_id: str,
        host: str = "",
        instance: str = "",
        grace_ms: int | None = None,
        timeout_ms: int = 5_000,
        discover: bool = True,
        ssl_context: ssl.SSLContext | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        insecure: bool = False,
        propagate_to: Sequence[str] = (),
        clocks: ParticipantClocks | None = None,
    ) -> None:
        """Take part as `application_id`, through the nodes at `addresses`.

        `host` is this machine's name unless given: what is in a file is undone by processes of the
        same host only. A process that names an `instance` succeeds the one that named it before.
        `grace_ms` (1 s to 10 min; unless given as the cluster has it) is how long the session, and
        with it LCN work, outlives a broken connection.
        `propagate_to` lists the hosts that are told of transactions, as in `AllowedHosts`; by
        default nobody is. `clocks` are attached and merged wherever xids are
        (docs/sdk/PROPAGATION.md of the repository). The rest is as for `Client`. Connections are
        made at the first call, or when the first resource is attached.

        Raises:
            ValueError, OSError: as `Client`; or a host is none, or `grace_ms` is out of bounds.
        """
        self._roster = Roster()
        self._runtime: Runtime | None = None
        self.application_id = application_id
        self.host = host or socket.gethostname()
        self.instance = instance
        self._who: Final = Identity(application_id, self.host, instance, checked_grace(grace_ms))
        self.propagate_to: Final = AllowedHosts(propagate_to)
        self.clocks: Final = clocks
        self.client = BlockingClient(
            addresses,
            timeout_ms=timeout_ms,
            discover=discover,
            ssl_context=ssl_context,
            ca_file=ca_file,
            token=token,
            insecure=insecure,
            on_start=self._begin,
        )
        self.blocking: Final[Calls] = Blocking(self.client)
        self.awaiting: Final[Calls] = Awaiting(self.client)
        _living.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def attach(self, resource: Resource) -> None:
        """Have this process answer for the branches of a resource, from now on.

        Attaching what is attached replaces it: the newest object answers. With the first one the
        process connects to the cluster, in the background.

        Raises:
            ValueError: its id is none, or there are too many.
            ClientClosedError
        """
        self._roster.attach(resource)
        self.client.submit(self._changed)

    def detach(self, mode: Mode, resource_id: str) -> None:
        """Answer no more for the branches of a resource; others may.

        Raises:
            ClientClosedError
        """
        self._roster.detach(mode, resource_id)
        self.client.submit(self._changed)

    def resource(self, mode: Mode, resource_id: str) -> Resource | None:
        """Return what answers for such branches here, if anything does."""
        return self._roster.find(mode, resource_id)

    async def session_id(
        self, calls: Calls, *, timeout_ms: int = SESSION_WITHIN_MS, ended: int = 0
    ) -> int:
        """Return the session of this process, which branches of LCN and XA are registered with.

        It waits until the cluster knows of all resources that are attached; then it costs nothing.
        Pass `blocking` or `awaiting` of this application, and as `ended` a session that is known to
        be over, of which this process may hear a little later.

        Raises:
            NoSessionError: no node registered this process in time.
            ClientClosedError
        """
        revision = self._roster.revision
        runtime = self._runtime
        known = 0 if runtime is None else runtime.known_session(revision, ended)
        return known or await calls(lambda _: self._registered(revision, ended, timeout_ms))

    async def in_session(
        self,
        calls: Calls,
        work: Callable[[Client, int], Coroutine[Any, Any, T]],
        *,
        timeout_ms: int = SESSION_WITHIN_MS,
    ) -> T:
        """Return what `work` does with the session of this process, as when a branch is registered.

        When the cluster refuses because the session has just ended, `work` is done again with the
        one that follows.

        Raises:
            NoSessionError: no node registered this process in time.
            What `work` raises, and ClientClosedError.
        """
        ends_at = time.monotonic() + timeout_ms / 1_000
        ended = 0
        while True:
            left_ms = max(1, int((ends_at - time.monotonic()) * 1_000))
            session_id = await self.session_id(calls, timeout_ms=left_ms, ended=ended)
            try:
                return await calls(functools.partial(_in_session, work, session_id))
            except ChannelSessionEndedError:
                if time.monotonic() >= ends_at:
                    raise
                ended = session_id

    @property
    def cluster_id(self) -> str:
        """The cluster of this process's session, empty while it has none. It asks nobody."""
        runtime = self._runtime
        return "" if runtime is None else runtime.cluster_id

    async def fates(
        self, calls: Calls, cluster_id: str, branches: Sequence[tuple[str, int]]
    ) -> list[Fate]:
        """Return what became of branches, each an xid and a branch id, in their order.

        For resources that find guards of which they were not told: those whose fate says
        `may_clean` can go. Ask only for what was kept for the cluster `cluster_id`.

        Raises:
            FatesUnknownError: no node could be asked, or it is another cluster's.
            ClientClosedError
        """
        return await calls(lambda _: self._fates(cluster_id, branches)) if branches else []

    def health(self) -> Health:
        """Return how the resource manager of this process stands. It asks nobody."""
        runtime = self._runtime
        return Health(resources=len(self._roster)) if runtime is None else runtime.health()

    def close(self, *, drain_ms: int = DRAIN_MS) -> None:
        """End this process's part, and return when that is done.

        What the coordinator asks for and what is under way may take `drain_ms` to come to its end;
        the session is ended, and the connections are closed.
        """
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            with contextlib.suppress(ClientClosedError):
                self.client.run(lambda _: runtime.close(drain_ms))
        self.client.close()

    async def aclose(self, *, drain_ms: int = DRAIN_MS) -> None:
        """As `close`, and other tasks of the caller's loop go on meanwhile."""
        await asyncio.to_thread(self.close, drain_ms=drain_ms)

    # --- on the application's own loop

    def _begin(self, client: Client) -> None:
        """A loop begins: that of this process, or of this child of it."""
        self._runtime = Runtime(client.transport, self._roster, self._who)
        self._runtime.changed()

    async def _changed(self, _: Client) -> None:
        if self._runtime is not None:
            self._runtime.changed()

    async def _registered(self, revision: int, ended: int, timeout_ms: int) -> int:
        if self._runtime is None:
            raise ClientClosedError("the application is closed; make another one")
        return await self._runtime.session_id(revision, ended, timeout_ms)

    async def _fates(self, cluster_id: str, branches: Sequence[tuple[str, int]]) -> list[Fate]:
        if self._runtime is None:
            raise ClientClosedError("the application is closed; make another one")
        return await self._runtime.fates.of(cluster_id, branches)

    # --- the ends of processes

    def _after_fork(self) -> None:
        """In the child: the parent's session stays the parent's."""
        self._roster.after_fork()
        if self._runtime is not None:
            self._runtime.forsake()
            self._runtime = None

    def _at_exit(self) -> None:
        """The interpreter ends, and nobody closed this."""
        runtime = self._runtime
        if runtime is not None:
            with contextlib.suppress(Exception):
                ending = self.client.submit(lambda _: runtime.close(_DRAIN_AT_EXIT_MS))
                ending.result(_AT_EXIT_S)


async def _in_session(
    work: Callable[[Client, int], Coroutine[Any, Any, T]], session_id: int, client: Client
) -> T:
    return await work(client, session_id)


_living: Final[weakref.WeakSet[Application]] = weakref.WeakSet()


def _forked() -> None:
    for application in list(_living):
        application._after_fork()


def _exit() -> None:
    for application in list(_living):
        application._at_exit()


os.register_at_fork(after_in_child=_forked)
atexit.register(_exit)

_default: Application | None = None

_declared: Final[list[Callable[[], Callable[[Application], object] | None]]] = []
"""Weakly, what is to be told of the configured application."""


def declare(attach: Callable[[Application], object]) -> None:
    """Have a bound method called with the application that is configured, now or later.

    For what is made by decorators when modules are imported, and is to be attached before anybody
    uses it: the coordinator may ask for what another process has left behind. The method's object
    is not kept alive.
    """
    _declared.append(weakref.WeakMethod(attach))
    if _default is not None:
        # One that is closed has nothing to answer for; another one may be configured.
        with contextlib.suppress(ClientClosedError):
            attach(_default)


def _announce(application: Application) -> None:
    for attach in [found for each in _declared if (found := each()) is not None]:
        attach(application)


def configure(application: Application) -> Application:
    """Make an application the one that is found when none is named. Returns it."""
    global _default  # noqa: PLW0603 (a process has one, as it has one log)
    _default = application
    _announce(application)
    return application


@contextlib.contextmanager
def configured_during(application: Application) -> Iterator[Application]:
    """Make an application the configured one for the time of a block: for tests."""
    global _default  # noqa: PLW0603 (as above)
    before, _default = _default, application
    try:
        _announce(application)
        yield application
    finally:
        _default = before


def configured() -> Application:
    """Return the configured application. Raises: NotConfiguredError: there is none."""
    if _default is None:
        raise NotConfiguredError(
            "no application was configured; at the start of the process: "
            'tidelock.configure(tidelock.Application([...], application_id="..."))'
        )
    return _default
