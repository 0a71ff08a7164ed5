"""What calls came to, on its way into the log: many together, each until it is known to be there.

A report whose fate is unknown is made again. It does no harm twice: what is done is not to be
called any more, and what was not counts once for the attempt that it was.

What nobody waits for lingers a moment, so that an entry of the log carries what many calls came to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from node.consensus.proposals import Answer as ProposalAnswer
from node.consensus.runtime import Runtime, Timer
from statemachine.commands import AnyCommand, ReportCalls, ReportedCall
from statemachine.outcomes import Applied, Rejected, RejectionCode, RequestOutcome

logger = logging.getLogger(__name__)

Propose = Callable[[Sequence[AnyCommand], Callable[[ProposalAnswer], None]], None]

GREATEST_TOGETHER: Final = 256

LINGER_S: Final = 0.05
"""How long a report that nobody waits for waits for others."""

_AGAIN_S: Final = 0.05
_REJECTED_S: Final = 1.0
_FIXED_BYTES: Final = 200


class Reports:
    """Of one term of one leader."""

    def __init__(
        self,
        runtime: Runtime,
        propose: Propose,
        *,
        epoch: int,
        together_bytes: int,
        on_taken: Callable[[Sequence[ReportedCall]], None],
        on_stale: Callable[[], None],
    ) -> None:
        """`together_bytes` is about how large one report may be."""
        self._runtime = runtime
        self._propose = propose
        self._epoch = epoch
        self._together_bytes = together_bytes
        self._on_taken = on_taken
        self._on_stale = on_stale
        self._gathered: list[ReportedCall] = []
        self._flushing = False
        self._lingering: Timer | None = None
        self._stopped = False

    def add(self, reported: ReportedCall, *, may_linger: bool = False) -> None:
        """Report this with whatever else comes in the same moment, or within `LINGER_S`."""
        self._gathered.append(reported)
        if self._flushing:
            return
        if may_linger and len(self._gathered) < GREATEST_TOGETHER:
            if self._lingering is None:
                self._lingering = self._runtime.call_later(LINGER_S, self._flush)
            return
        self._flushing = True
        self._runtime.call_soon(self._flush)

    def stop(self) -> None:
        """The term is over, and nobody wants to know any more."""
        self._stopped = True
        self._no_longer_linger()

    def _no_longer_linger(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None

    def _flush(self) -> None:
        self._flushing = False
        self._no_longer_linger()
        gathered, self._gathered = self._gathered, []
        batch: list[ReportedCall] = []
        size = 0
        for each in gathered:
            its_size = _FIXED_BYTES + len(each.result) + len(each.failure_message)
            full = size + its_size > self._together_bytes or len(batch) >= GREATEST_TOGETHER
            if batch and full:
                self._send(batch)
                batch, size = [], 0
            batch.append(each)
            size += its_size
        if batch:
            self._send(batch)

    def _send(self, batch: list[ReportedCall]) -> None:
        if self._stopped:
            return
        command = ReportCalls(epoch=self._epoch, calls=tuple(batch))
        self._propose([command], lambda answer: self._answered(batch, answer))

    def _answered(self, batch: list[ReportedCall], answer: ProposalAnswer) -> None:
        if self._stopped:
            return
        outcome = answer.outcomes[0] if isinstance(answer, RequestOutcome) else None
        if isinstance(outcome, Applied):
            self._on_taken(batch)
        elif isinstance(outcome, Rejected) and outcome.code is RejectionCode.EPOCH_STALE:
            self._on_stale()
        else:
            logger.info(
                "a report of calls was not taken: %r", answer if outcome is None else outcome
            )
            again_s = _AGAIN_S if outcome is None else _REJECTED_S
            self._runtime.call_later(again_s, lambda: self._send(batch))
