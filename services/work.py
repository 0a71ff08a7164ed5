"""An execution as its business sees it, and what the worker asks of its node meanwhile."""

from __future__ import annotations

import time
from typing import Any, Final, Protocol

import msgspec

from services.messages import Run, Steps
from services.sources import Source
from services.synchronizations import Synchronizations
from tidelock import Transaction
from tidelock.services import BusinessError, JtaStatus, Synchronization

_PROGRESS_EVERY_S: Final = 0.2


class TakenOverError(Exception):
    """The execution is not this worker's any more, or its node cannot have anything recorded."""


class Recorder(Protocol):
    """Has something recorded of executions, and returns when it is."""

    def advance(
        self,
        run: Run,
        *,
        jta_status: str = "",
        xid: str = "",
        progress: Steps | None = None,
        result: Any = None,
    ) -> None:
        """Raises: TakenOverError"""

    def finish(
        self,
        run: Run,
        status: str,
        jta_status: JtaStatus,
        *,
        error: str = "",
        failures: list[Any] | None = None,
    ) -> None:
        """Raises: TakenOverError"""


class Undertaking:
    """`tidelock.services.Work`."""

    def __init__(
        self,
        run: Run,
        recorder: Recorder,
        transaction: Transaction,
        synchronizations: Synchronizations,
        primary: Source,
        secondary: Source,
    ) -> None:
        self.transaction_id = run.execution
        self.xid = transaction.xid
        self.primary = primary
        self.secondary = secondary
        self.sources = {"primary": primary, "secondary": secondary}
        self._run = run
        self._recorder = recorder
        self._synchronizations = synchronizations
        self._reported_at = 0.0
        self.rollback_reason: str | None = None

    def source(self, name: str) -> Source:
        """Return `primary` or `secondary`."""
        found = self.sources.get(name)
        if found is None:
            raise BusinessError(f"There is no data source {name!r}: primary and secondary are.")
        return found

    def progress(self, *, read: int, written: int, total: int, batch: int) -> None:
        """Have it recorded, the last one of several that follow each other quickly."""
        now = time.monotonic()
        if now - self._reported_at < _PROGRESS_EVERY_S and (read < total or not total):
            return
        self._reported_at = now
        steps = Steps(read=read, written=written, total=total, batch=batch)
        self._recorder.advance(self._run, progress=steps)

    def register(self, synchronization: Synchronization) -> None:
        """Have somebody told of the end."""
        self._synchronizations.register(synchronization)

    def set_rollback_only(self, reason: str) -> None:
        """Have it rolled back though nothing is raised."""
        self.rollback_reason = reason or "The business wants it rolled back."


def data_of(run: Run) -> dict[str, Any]:
    """Return the client's object."""
    decoded: dict[str, Any] = msgspec.json.decode(run.business_data, type=dict[str, Any])
    return decoded
