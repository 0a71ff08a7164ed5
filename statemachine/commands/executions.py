"""Commands of executions: business that nodes run in the databases of the XA and JTA services."""

from __future__ import annotations

import msgspec

from statemachine.commands.command import Command
from statemachine.positions import Position


class AcceptExecution(Command, frozen=True, tag=110):
    """Record a timestamp event and an execution, which `owner` is to run at once."""

    service: str
    """XA or JTA."""
    business_type: str
    business_data: bytes
    """The client's JSON text."""
    asynchronous: bool
    """Nobody waits for it: it is run again elsewhere when its owner dies before the decision."""
    owner: str
    """The cluster node that took the request."""
    follows: bool
    """It is not begun before the execution that the command before this one accepted has ended."""
    room: int
    """How many executions the request has left to accept, this one included: all or none."""
    lease_ms: int


class ClaimExecution(Command, frozen=True, tag=111):
    """Take over an execution that nobody runs."""

    execution: Position
    epoch: int
    """As the claimant has read it."""
    owner: str
    lease_ms: int


class Progress(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How far an execution has got, in what it counts."""

    read: int
    written: int
    total: int
    batch: int


class AdvanceExecution(Command, frozen=True, tag=112):
    """What its owner says of an execution that it runs."""

    execution: Position
    epoch: int
    jta_status: str
    """Empty: as it was."""
    xid: str
    """Empty: as it was."""
    progress: Progress | None
    """None: as it was."""
    result: bytes | None
    """The JSON text that will be answered if it commits. None: as it was."""
    lease_ms: int


class RenewExecutions(Command, frozen=True, tag=113):
    """An owner still runs these."""

    owner: str
    executions: tuple[tuple[Position, int], ...]
    """And their epochs."""
    lease_ms: int


class FinishExecution(Command, frozen=True, tag=114):
    """How an execution ended."""

    execution: Position
    epoch: int
    status: str
    """SUCCESS, ROLLBACK or ROLLBACK_FAILED."""
    jta_status: str
    error: str
    """Why it was not SUCCESS: a sentence for the client. Empty when it was."""
    failures: bytes
    """A JSON text with each failure, where there are several. Empty when there is none."""
    keep_ms: int
    """How long it is remembered, in elapsed time."""
