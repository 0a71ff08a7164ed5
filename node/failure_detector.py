"""What a node believes of the others, from the checks that were answered and missed.

No I/O and no clock: observations come in, states and changes come out. The whole behaviour is the
table `TRANSITIONS`; what is absent from it cannot happen.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from api.routing import NodeState, RoutingEntry, RoutingTable

HEALTHY: Final = NodeState.HEALTHY
SUSPECT: Final = NodeState.SUSPECT
FAILED: Final = NodeState.FAILED
RECOVERING: Final = NodeState.RECOVERING

IN_ROTATION: Final = frozenset({HEALTHY, SUSPECT})


class Observation(enum.Enum):
    ANSWERED = "answered a check"
    MISSED = "missed a check, fewer in a row than make it suspect"
    MISSED_SOME = "missed as many checks in a row as make it suspect"
    MISSED_TOO_MANY = "missed as many checks in a row as make it failed"
    ASKED_TO_REJOIN = "asked to come back, and answers"
    DIGEST_SAME = "its digest equals a healthy node's at the same index"
    DIGEST_DIFFERS = "its digest differs from a healthy node's at the same index"
    DIGEST_UNKNOWN = "its digest could not be compared yet"


class Verdict(enum.Enum):
    """What a comparison of digests found."""

    SAME = Observation.DIGEST_SAME
    DIFFERENT = Observation.DIGEST_DIFFERS
    UNKNOWN = Observation.DIGEST_UNKNOWN
    """Not to be compared yet: not answered, or not at the index. It is tried again."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A returning node's digest against a healthy node's at one index."""

    verdict: Verdict
    detail: str
    """One clause: at which index and with whom, or why it could not be compared."""


@dataclass(frozen=True, slots=True)
class Step:
    state: NodeState
    compare: bool = False
    """Whether the node's digest is to be compared with a healthy node's now."""


TRANSITIONS: Final[dict[tuple[NodeState, Observation], Step]] = {
    (HEALTHY, Observation.ANSWERED): Step(HEALTHY),
    (HEALTHY, Observation.MISSED): Step(HEALTHY),
    (HEALTHY, Observation.MISSED_SOME): Step(SUSPECT),
    (HEALTHY, Observation.MISSED_TOO_MANY): Step(FAILED),
    (HEALTHY, Observation.ASKED_TO_REJOIN): Step(HEALTHY),
    (SUSPECT, Observation.ANSWERED): Step(HEALTHY),
    (SUSPECT, Observation.MISSED): Step(SUSPECT),
    (SUSPECT, Observation.MISSED_SOME): Step(SUSPECT),
    (SUSPECT, Observation.MISSED_TOO_MANY): Step(FAILED),
    (SUSPECT, Observation.ASKED_TO_REJOIN): Step(RECOVERING, compare=True),
    (FAILED, Observation.ANSWERED): Step(RECOVERING, compare=True),
    (FAILED, Observation.MISSED): Step(FAILED),
    (FAILED, Observation.MISSED_SOME): Step(FAILED),
    (FAILED, Observation.MISSED_TOO_MANY): Step(FAILED),
    (FAILED, Observation.ASKED_TO_REJOIN): Step(RECOVERING, compare=True),
    # One missed check costs a recovering node nothing: it is out of rotation already.
    (RECOVERING, Observation.ANSWERED): Step(RECOVERING, compare=True),
    (RECOVERING, Observation.MISSED): Step(RECOVERING),
    (RECOVERING, Observation.MISSED_SOME): Step(RECOVERING),
    (RECOVERING, Observation.MISSED_TOO_MANY): Step(FAILED),
    (RECOVERING, Observation.ASKED_TO_REJOIN): Step(RECOVERING, compare=True),
    (RECOVERING, Observation.DIGEST_SAME): Step(HEALTHY),
    (RECOVERING, Observation.DIGEST_DIFFERS): Step(RECOVERING),
    (RECOVERING, Observation.DIGEST_UNKNOWN): Step(RECOVERING),
}


@dataclass(frozen=True, slots=True)
class Change:
    node_id: str
    state: NodeState
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What followed from one observation."""

    change: Change | None
    compare: bool


NOTHING: Final = Judgement(None, False)


@dataclass(slots=True)
class _Seen:
    state: NodeState
    reason: str
    since_ms: int
    misses: int = 0
    """Checks missed in a row."""
    episode: int = 0
    """Counts state changes, so that a comparison begun in an earlier one is not believed."""


class FailureDetector:
    """States of all members as one node sees them. The node itself is always HEALTHY."""

    def __init__(self, node_id: str, *, failures_suspect: int, failures_failed: int) -> None:
        self._node_id = node_id
        self._failures_suspect = failures_suspect
        self._failures_failed = failures_failed
        self._seen: dict[str, _Seen] = {}

    def set_members(self, node_ids: Iterable[str], now_ms: int) -> None:
        """Forget who is no longer a member; new members are HEALTHY until they miss a check."""
        known = self._seen
        self._seen = {
            node_id: known.get(node_id) or _Seen(HEALTHY, "", now_ms)
            for node_id in sorted(node_ids)
        }

    def state_of(self, node_id: str) -> NodeState:
        """Raises: LookupError: it is no member."""
        return self._seen[node_id].state

    def episode_of(self, node_id: str) -> int:
        """Raises: LookupError: it is no member."""
        return self._seen[node_id].episode

    def table(self) -> RoutingTable:
        return RoutingTable(
            tuple(
                RoutingEntry(
                    node_id=node_id,
                    in_rotation=seen.state in IN_ROTATION,
                    state=seen.state,
                    reason=seen.reason,
                    since_ms=seen.since_ms,
                )
                for node_id, seen in self._seen.items()
            )
        )

    def answered(self, node_id: str, now_ms: int) -> Judgement:
        seen = self._seen.get(node_id)
        if seen is None:
            return NOTHING
        seen.misses = 0
        reason = "it answers again"
        if seen.state is FAILED:
            reason += "; its state is being compared"
        return self._observe(node_id, Observation.ANSWERED, reason, now_ms)

    def missed(self, node_id: str, why: str, now_ms: int) -> Judgement:
        seen = self._seen.get(node_id)
        if seen is None:
            return NOTHING
        seen.misses += 1
        observation = Observation.MISSED
        if seen.misses >= self._failures_failed:
            observation = Observation.MISSED_TOO_MANY
        elif seen.misses >= self._failures_suspect:
            observation = Observation.MISSED_SOME
        checks = "1 check" if seen.misses == 1 else f"{seen.misses} checks in a row"
        return self._observe(node_id, observation, f"missed {checks}: {why}", now_ms)

    def asked_to_rejoin(self, node_id: str, now_ms: int) -> Judgement:
        """Take a node's wish to come back; it has just answered a check."""
        seen = self._seen.get(node_id)
        if seen is None:
            return NOTHING
        seen.misses = 0
        reason = "it asked to come back; its state is being compared"
        return self._observe(node_id, Observation.ASKED_TO_REJOIN, reason, now_ms)

    def compared(
        self, node_id: str, comparison: Comparison, *, episode: int, now_ms: int
    ) -> Judgement:
        """Take a comparison that was begun in `episode`; one of an earlier episode is void."""
        seen = self._seen.get(node_id)
        if seen is None or seen.episode != episode:
            return NOTHING
        return self._observe(node_id, comparison.verdict.value, comparison.detail, now_ms)

    def _observe(
        self, node_id: str, observation: Observation, reason: str, now_ms: int
    ) -> Judgement:
        seen = self._seen[node_id]
        step = TRANSITIONS[seen.state, observation]
        if step.state is seen.state:
            if observation in _EXPLAINS_AGAIN:
                seen.reason = reason
            return Judgement(None, step.compare)
        seen.state = step.state
        seen.reason = reason
        seen.since_ms = now_ms
        seen.episode += 1
        return Judgement(Change(node_id, step.state, reason), step.compare)


_EXPLAINS_AGAIN: Final = frozenset({Observation.DIGEST_DIFFERS, Observation.DIGEST_UNKNOWN})
"""Observations that keep a state but say better why it lasts."""
