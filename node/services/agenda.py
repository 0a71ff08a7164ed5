"""What a node has to do about executions, read from the state. It does no I/O and reads no clock.

A node runs what it owns, one after the other where they follow each other, and takes over what
nobody owns while its worker has a thread to spare.
"""

from __future__ import annotations

from typing import Final

import msgspec

from services.messages import Run
from statemachine.commands import ClaimExecution, RenewExecutions
from statemachine.execution_rows import (
    ExecutionRow,
    business_data,
    get_execution,
    open_executions,
    transaction_id,
)
from statemachine.outcomes import Position
from statemachine.store import Reader

GREATEST_CLAIMS: Final = 16
"""Executions that are claimed at once: other nodes claim, too."""


class Agenda:
    """What one node does next. `running` is what its worker has, by position, with its epoch."""

    def __init__(self, node_id: str, reader: Reader, *, concurrency: int, lease_ms: int) -> None:
        self._node_id = node_id
        self._reader = reader
        self._concurrency = concurrency
        self._lease_ms = lease_ms
        self.running: dict[Position, int] = {}
        self.waits_until: dict[Position, float] = {}
        """What the worker left for later, and when that is."""
        self.claimed: dict[Position, int] = {}
        """What was claimed for the worker that there is now, and under which epoch."""

    def step(self, now: float) -> tuple[list[tuple[Position, Run]], list[ClaimExecution]]:
        """Return what the worker is to run, and what is to be claimed first."""
        runs: list[tuple[Position, Run]] = []
        claims: list[ClaimExecution] = []
        room = self._concurrency - len(self.running)
        if room <= 0:
            return runs, claims
        found = open_executions(self._reader)
        self._forget({position for position, _ in found})
        for position, row in found:
            if room <= 0:
                break
            if position in self.running or self._is_to_wait(position, row, now):
                continue
            if row.owner == self._node_id and (
                self.claimed.get(position) == row.epoch or _is_new(row)
            ):
                runs.append((position, self._run(position, row)))
                room -= 1
            elif row.owner in ("", self._node_id) and len(claims) < GREATEST_CLAIMS:
                claims.append(
                    ClaimExecution(
                        execution=position,
                        epoch=row.epoch,
                        owner=self._node_id,
                        lease_ms=self._lease_ms,
                    )
                )
                room -= 1
        return runs, claims

    def renewal(self) -> RenewExecutions | None:
        """Return what keeps this node's executions its own, those that wait for a thread too."""
        owned = tuple(
            (position, row.epoch)
            for position, row in open_executions(self._reader)
            if row.owner == self._node_id
        )
        if not owned:
            return None
        return RenewExecutions(owner=self._node_id, executions=owned, lease_ms=self._lease_ms)

    def next_wake_s(self, now: float) -> float | None:
        """How long until a step may have something to do though nothing changes; None: never."""
        if not self.waits_until:
            return None
        return max(0.0, min(self.waits_until.values()) - now)

    def worker_died(self) -> None:
        """What it had is to be claimed anew, so that its epoch tells it from what it left."""
        self.running.clear()
        self.claimed.clear()

    def _is_to_wait(self, position: Position, row: ExecutionRow, now: float) -> bool:
        if row.follows is not None:
            before = get_execution(self._reader, row.follows)
            if before is not None and not before.ended:
                return True
        return self.waits_until.get(position, now) > now

    def _forget(self, there: set[Position]) -> None:
        for gone in [position for position in self.waits_until if position not in there]:
            del self.waits_until[gone]
        for gone in [position for position in self.claimed if position not in there]:
            del self.claimed[gone]

    def _run(self, position: Position, row: ExecutionRow) -> Run:
        begun = bool(row.jta_status)
        return Run(
            execution=transaction_id(row.service, position),
            service=row.service,
            business_type=row.business_type,
            business_data=msgspec.Raw(business_data(self._reader, position)),
            epoch=row.epoch,
            attempt=row.attempts,
            begun_xid=row.xid if begun else "",
            notes=msgspec.Raw(row.result or b"null"),
            may_run_again=row.asynchronous,
        )


def _is_new(row: ExecutionRow) -> bool:
    """Accepted here and not begun: no worker has ever said anything of it."""
    return row.epoch == 1 and not row.jta_status
