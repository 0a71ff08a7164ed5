"""What calls to branches need of the engine: who leads, the state, and a way to propose.

A node's `Engine` is one. The coordinator that applications test with is another: a majority of one,
without a log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from node.consensus.foundation import Identity
from node.consensus.messages import Frame
from node.consensus.notices import Notices
from node.consensus.proposals import Answer
from node.consensus.settings import EngineSettings
from node.consensus.stamps import Stamps
from statemachine.commands import AnyCommand
from statemachine.machine import Machine
from statemachine.outcomes import RequestOutcome
from statemachine.store import DamagedStateError, Reader


class Role(Protocol):
    """Who this node is in its term."""

    @property
    def term(self) -> int: ...

    @property
    def is_leader(self) -> bool: ...


class Confirmation(Protocol):
    """When a quorum last said that this node leads."""

    @property
    def quorum_confirmed_at(self) -> float: ...


class Leader(Protocol):
    """The engine, as far as calls to branches go."""

    @property
    def identity(self) -> Identity: ...

    @property
    def settings(self) -> EngineSettings: ...

    @property
    def machine(self) -> Machine: ...

    @property
    def machine_store(self) -> Reader: ...

    @property
    def notices(self) -> Notices: ...

    @property
    def stamps(self) -> Stamps: ...

    @property
    def raft(self) -> Role: ...

    @property
    def reads(self) -> Confirmation: ...

    @property
    def leader_ready(self) -> bool: ...

    def now(self) -> float:
        """As `Engine.now`."""

    def read(self, deadline: float, on_ready: Callable[[Exception | None], None]) -> None:
        """As `Engine.read`."""

    def propose_internal(
        self, request: bytes, deadline: float, on_answer: Callable[[Answer], None]
    ) -> None:
        """As `Engine.propose_internal`."""

    def send_channel_frame(self, peer: str, frame: Frame) -> bool:
        """As `Engine.send_channel_frame`."""


class Housekeeper(Protocol):
    """The cluster, as far as the leader's own work goes."""

    def propose_internal(
        self, commands: Sequence[AnyCommand], *, timeout_ms: int
    ) -> Awaitable[RequestOutcome]:
        """As `EngineCluster.propose_internal`."""

    def report_damage(self, error: DamagedStateError) -> None:
        """As `EngineCluster.report_damage`."""
