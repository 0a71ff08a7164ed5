"""Clients of sequences: every number is given once and none is left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scripts.tidelock_scripts.chaos.sequence_checks import Take, check_sequences
from statemachine.commands import AdvanceSequence
from statemachine.outcomes import Rejected, SequenceAdvanced
from statemachine.sequences import last_number
from tests.simulation.calls import Call, Callers, nanoseconds
from tests.simulation.clients import SteadyClients, require_none
from tests.simulation.cluster import SimulatedCluster

SEQUENCES = ("orders", "invoices")
_COUNTS = (1, 1, 1, 2, 10, 1_000)


@dataclass(frozen=True, slots=True)
class _Taking:
    sequence: str
    count: int
    call: Call


class SequenceClients(SteadyClients):
    """`tests.simulation.clients.Clients` of sequences."""

    rate_per_s = 8.0

    def __init__(self, cluster: SimulatedCluster, callers: Callers) -> None:
        super().__init__(cluster, callers)
        self._takings: list[_Taking] = []

    def _begin(self) -> None:
        rng = self._world.rng
        sequence, count = rng.choice(SEQUENCES), rng.choice(_COUNTS)
        call = self._callers.call(
            AdvanceSequence(name=sequence, count=count), self._ended, keyed=rng.random() < 0.7
        )
        self._takings.append(_Taking(sequence, count, call))

    def _ended(self, call: Call) -> None:
        self.counters["sequences_taken" if call.result else "sequences_not_told"] += 1

    def at_rest(self) -> bool:
        return not any(taking.call.ended_at is None for taking in self._takings)

    def check(self) -> None:
        # One more call at the end would be given the number after the last one that is stored.
        now_ns = nanoseconds(self._world.now)
        for engine in self._cluster.members():
            ends = [
                Take(name, 1, now_ns + 1, now_ns + 2, last_number(engine.machine_store, name) + 1)
                for name in SEQUENCES
            ]
            require_none(check_sequences([*self.takes(), *ends]))

    def takes(self) -> list[Take]:
        takes = []
        for taking in self._takings:
            result = taking.call.result
            if isinstance(taking.call.outcome, Rejected) or not taking.call.sent:
                continue
            told = isinstance(result, SequenceAdvanced)
            takes.append(
                Take(
                    taking.sequence,
                    taking.count,
                    taking.call.begun_ns,
                    taking.call.ended_ns if told else None,
                    result.first if isinstance(result, SequenceAdvanced) else None,
                )
            )
        return takes

    def seen(self) -> Iterable[object]:
        return self.takes()
