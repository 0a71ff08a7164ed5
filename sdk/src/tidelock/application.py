"""One process's part in global transactions: how it reaches the cluster, and what it has.

A service says once who it is::

    tidelock.configure(tidelock.Application(["http://127.0.0.1:7101"], application_id="orders"))

after which `@global_transaction`, the modes and the middlewares find the application by
themselves. Tests, and processes that are several applications, make `Application`s of their own
and pass them on.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from tidelock.allowed_hosts import AllowedHosts
from tidelock.calls import Awaiting, Blocking, Calls
from tidelock.client import BlockingClient
from tidelock.errors import TidelockError
from tidelock.participant_clocks import ParticipantClocks
from tidelock.rm.resource import Mode, Resource


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
        `propagate_to` lists the hosts that are told of transactions, as in `AllowedHosts`; by
        default nobody is. `clocks` are attached and merged wherever xids are
        (docs/sdk/PROPAGATION.md of the repository). The rest is as for `Client`. Connections are
        made at the first call.

        Raises:
            ValueError, OSError: as `Client`; or a host is none.
        """
        self.application_id = application_id
        self.host = host or socket.gethostname()
        self.instance = instance
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
        )
        self.blocking: Final[Calls] = Blocking(self.client)
        self.awaiting: Final[Calls] = Awaiting(self.client)
        self._lock = threading.Lock()
        self._resources: dict[tuple[Mode, str], Resource] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def attach(self, resource: Resource) -> None:
        """Have this process answer for the branches of a resource.

        Attaching what is attached replaces it: the newest object answers.
        """
        with self._lock:
            self._resources[resource.mode, resource.resource_id] = resource

    def resource(self, mode: Mode, resource_id: str) -> Resource | None:
        """Return what answers for such branches here, if anything does."""
        with self._lock:
            return self._resources.get((mode, resource_id))

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


_default: Application | None = None


def configure(application: Application) -> Application:
    """Make an application the one that is found when none is named. Returns it."""
    global _default  # noqa: PLW0603 (a process has one, as it has one log)
    _default = application
    return application


def configured() -> Application:
    """Return the configured application. Raises: NotConfiguredError: there is none."""
    if _default is None:
        raise NotConfiguredError(
            "no application was configured; at the start of the process: "
            'tidelock.configure(tidelock.Application([...], application_id="..."))'
        )
    return _default
