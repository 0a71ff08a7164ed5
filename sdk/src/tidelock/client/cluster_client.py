"""The client of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncGenerator, Sequence
from types import TracebackType
from typing import Final, Self, Unpack

from tidelock.client.access import Access
from tidelock.client.agreement import Proposals, Synchronisation
from tidelock.client.answers import Drawn, Topology
from tidelock.client.batches import Batches
from tidelock.client.branches import Branches
from tidelock.client.cluster import Cluster, NodeHealth
from tidelock.client.diagrams import Diagrams
from tidelock.client.leases import Lock
from tidelock.client.locks import LockMode, Locks
from tidelock.client.messages import Messages, Topics
from tidelock.client.nodes import Nodes
from tidelock.client.operating import Audit, Recovery, ResourceManagers
from tidelock.client.oracle import Oracle, SharedDraws
from tidelock.client.resource import Asking, names
from tidelock.client.row_locks import RowLocks
from tidelock.client.runs import SagaDefinitions, Sagas, Tcc
from tidelock.client.services import JtaService, XaService
from tidelock.client.timestamps import Events, HybridClocks, Participants, Sequences
from tidelock.client.transactions import Transactions
from tidelock.client.transport import Transport
from tidelock.client.vectors import VectorClocks, Versions
from tidelock.client.watching import Applied, Watching
from tidelock.errors import TidelockError

_LOOK_EVERY_S: Final = 10.0
"""How often the client asks who belongs to the cluster, while it is used."""
_LOOK_SOON_S: Final = 1.0
"""The same while a node fails, or nobody could say."""
_LOOK_TIMEOUT_MS: Final = 2_000


class Client:
    """Asks any node of a cluster, and goes on at another one when that fails.

    One client serves any number of tasks of one event loop. Use it as `async with`, or `close` it.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        timeout_ms: int = 5_000,
        attempt_timeout_ms: int = 2_000,
        discover: bool = True,
        ssl_context: ssl.SSLContext | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        """Talk to the nodes at `addresses`, as `["http://127.0.0.1:7101"]`.

        A call ends after `timeout_ms` with all its attempts, of which each may take
        `attempt_timeout_ms`. With `discover=False` no nodes are asked but these: for clients that
        reach the cluster under other addresses than the nodes know of, or through a load balancer.

        Of `https` addresses, certificates are checked against what the machine trusts, or against
        `ca_file`, or as `ssl_context` says; with one of the two, addresses without a scheme are
        `https`, and others are refused. `token` goes along as `Authorization: Bearer`, not in clear
        text to another machine unless `insecure` is set, and shows up in no message.

        Raises:
            ValueError: an address is none or may not be asked, or options contradict each other.
            OSError: `ca_file` cannot be read.
        """
        access = Access(ssl_context=ssl_context, ca_file=ca_file, token=token, insecure=insecure)
        self._transport = Transport(
            Nodes(addresses, access=access),
            access,
            timeout_ms=timeout_ms,
            attempt_timeout_ms=attempt_timeout_ms,
        )
        self._discovers = discover
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._cluster_id: str | None = None
        self._oracle = Oracle(self._transport)
        self._draws = SharedDraws(self._oracle.draw)
        self._transport.on_call = self._look_sometimes
        self._transport.looked = self._looked
        self.events = Events(self._transport)
        self.participants = Participants(self._transport)
        self.hlc = HybridClocks(self._transport)
        self.sequences = Sequences(self._transport)
        self.versions = Versions(self._transport)
        self.vector_clocks = VectorClocks(self._transport)
        self.locks = Locks(self._transport)
        self.proposals = Proposals(self._transport)
        self.synchronisation = Synchronisation(self._transport)
        self.diagrams = Diagrams(self._transport)
        self.cluster = Cluster(self._transport)
        self.health = NodeHealth(self._transport)
        self.batches = Batches(self._transport)
        self.transactions = Transactions(self._transport)
        self.branches = Branches(self._transport)
        self.row_locks = RowLocks(self._transport)
        self.sagas = Sagas(self._transport)
        self.saga_definitions = SagaDefinitions(self._transport)
        self.tcc = Tcc(self._transport)
        self.xa = XaService(self._transport)
        self.jta = JtaService(self._transport)
        self.messages = Messages(self._transport)
        self.topics = Topics(self._transport)
        self.resource_managers = ResourceManagers(self._transport)
        self.recovery = Recovery(self._transport)
        self.audit = Audit(self._transport)

    def __repr__(self) -> str:
        return f"<Client of {', '.join(self.nodes)}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; who still waits gets `ClientClosedError`.

        Before that, what was given up is undone in the cluster, for up to 2 s.
        """
        self._draws.close()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await self._transport.close()

    @property
    def transport(self) -> Transport:
        """The connections to the nodes, for what of the SDK is no request: the channel."""
        return self._transport

    @property
    def nodes(self) -> list[str]:
        """The addresses of the nodes that are known, in the order in which they are asked."""
        return [str(url) for url in self._transport.nodes.in_order()]

    async def timestamp(self) -> int:
        """Return a timestamp of the oracle: unique, and greater than all that were given before.

        Calls at the same time share one request. The default deadline holds.
        """
        return await self._draws.one()

    async def timestamps(self, count: int, **options: Unpack[Asking]) -> Drawn:
        """Return 1 to 1,000,000 timestamps in a row."""
        return await self._oracle.draw(count, **options)

    def lock(
        self,
        name: str,
        *,
        ttl_ms: int,
        wait_ms: int = 0,
        mode: LockMode = "EXCLUSIVE",
        owner: str | None = None,
    ) -> Lock:
        """Return a lock for one `async with` block.

        The lease of `ttl_ms` is renewed at a third of it; who comes while it is held waits up to
        `wait_ms`. The owner is unique unless it is given: the same owner enters again.

        Raises, at the block's beginning: LockHeldError; at its end: LockLostError
        """
        return Lock(self._transport, name, ttl_ms=ttl_ms, wait_ms=wait_ms, mode=mode, owner=owner)

    def watch(
        self,
        *,
        kinds: Sequence[str] = (),
        after: str | None = None,
        silence_ms: int = 15_000,
    ) -> AsyncGenerator[Applied, None]:
        """Iterate over what is applied, in order, for ever: from now on, or behind `after`.

        `after` is the `id` of what was told last, or "0" for the oldest that is kept. `kinds` are
        such as `lock.*` and `timestamp.event`, all unless given. When a node fails or says nothing
        for `silence_ms` (nodes say something every 5 s), it goes on at another one.

        Raises:
            CompactedError: what follows is no longer kept.
            InvalidRequestError: there is no such kind or position.
            ValueError: `kinds` is a text; it is a list of them.
        """
        names("kinds", kinds)
        watching = Watching(self._transport, kinds=kinds, after=after, silence_ms=silence_ms)
        return watching.run()

    def _look_sometimes(self) -> None:
        """See who belongs to the cluster, without anybody waiting for it."""
        now = time.monotonic()
        every_s = _LOOK_SOON_S if self._transport.nodes.troubled else _LOOK_EVERY_S
        if self._discovers and now - self._looked_at >= every_s:
            self._looked_at = now
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look())

    async def _looked(self, within_s: float) -> None:
        """Wait for a look that is under way, but not for long."""
        if self._looking is not None:
            await asyncio.wait([self._looking], timeout=within_s)

    async def _look(self) -> None:
        with contextlib.suppress(TidelockError):
            self._follow(await self.cluster.topology(timeout_ms=_LOOK_TIMEOUT_MS))

    def _follow(self, topology: Topology) -> None:
        if topology.cluster_id is None:
            return
        self._cluster_id = self._cluster_id or topology.cluster_id
        # An address may by now be that of another cluster, which would name its own nodes.
        if topology.cluster_id == self._cluster_id:
            healthy = {"HEALTHY", "SUSPECT"}
            leaders = [each.api_address for each in topology.nodes if each.role == "LEADER"]
            self._transport.nodes.follow(
                ((node.api_address, node.state in healthy) for node in topology.nodes),
                leaders[0] if leaders else None,
            )
