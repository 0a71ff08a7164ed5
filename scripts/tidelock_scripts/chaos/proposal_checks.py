"""Did the nodes decide each data proposal once, by the rule, and for all to see?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scripts.tidelock_scripts.chaos.checkers import Violation
from scripts.tidelock_scripts.chaos.history import Ending
from scripts.tidelock_scripts.chaos.linearizability import Operation, Verdict, check_history

COMMITTED = "COMMITTED"
REJECTED = "REJECTED"
EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Proposing:
    """A client's proposal of data for a key, and what it was told."""

    proposal_id: str
    key: str
    timestamp: int
    begun_ns: int
    ended_ns: int
    ending: Ending
    """REFUSED: it was not committed."""
    status: str = ""
    votes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DataRead:
    """A linearizable read of a key's committed data; an empty id when there is none."""

    key: str
    begun_ns: int
    ended_ns: int
    proposal_id: str


@dataclass(frozen=True, slots=True)
class Decided:
    """A proposal as a node shows it in the end."""

    proposal_id: str
    status: str
    votes: Mapping[str, str]
    applied_by: frozenset[str]


def check_proposals(
    proposed: Sequence[Proposing],
    reads: Sequence[DataRead],
    shown: Mapping[str, Mapping[str, Decided]],
) -> list[Violation]:
    """Check all rules. `shown` holds, for each node, the proposals as that node shows them."""
    (first_node, final), *others = shown.items()
    return [
        *(
            Violation("nodes agree", f"{node} and {first_node} show other proposals")
            for node, decided in others
            if decided != final
        ),
        *check_decisions(proposed, final),
        *check_data_by_search(proposed, reads, final),
    ]


def check_decisions(proposed: Sequence[Proposing], final: Mapping[str, Decided]) -> list[Violation]:
    """What a client was told still holds, and every decision is what its votes come to."""
    violations = []
    for each in proposed:
        decided = final.get(each.proposal_id)
        if decided is None:
            if each.ending is Ending.ACKNOWLEDGED or each.status:
                violations.append(Violation("no decision is lost", f"{each} is not there"))
            continue
        if each.status and decided.status != each.status:
            detail = f"{each} is {decided.status}"
            violations.append(Violation("a decision is final", detail))
        changed = {
            node: vote
            for node, vote in each.votes.items()
            if vote != "PENDING" and decided.votes.get(node) != vote
        }
        if changed:
            violations.append(Violation("a vote is final", f"{each}: {changed} became {decided}"))
        violations.extend(_against_its_votes(decided))
    return violations


def _against_its_votes(decided: Decided) -> list[Violation]:
    accepted = sum(vote == "ACCEPT" for vote in decided.votes.values())
    majority = len(decided.votes) // 2 + 1
    # What a majority accepted is rejected all the same when something later was committed before:
    # whether it was, the search finds out.
    wrong = {
        COMMITTED: accepted < majority,
        REJECTED: bool(decided.applied_by),
        EXPIRED: bool(decided.applied_by),
    }
    if wrong.get(decided.status, True):
        return [Violation("decided by the votes", f"{decided}")]
    if decided.status == COMMITTED and decided.applied_by != decided.votes.keys():
        return [Violation("every node says that it applied it", f"{decided}")]
    return []


@dataclass(frozen=True, slots=True)
class _DataAction:
    proposal_id: str
    timestamp: int
    status: str


class AgreedData:
    """The sequential object behind a key: what was committed last."""

    initial: tuple[int, str] = (-1, "")

    def step(self, state: tuple[int, str], action: _DataAction) -> tuple[int, str] | None:
        if action.status == COMMITTED:
            above = action.timestamp > state[0]
            return (action.timestamp, action.proposal_id) if above else None
        if action.status == REJECTED:
            return state if action.timestamp <= state[0] else None
        return state if action.proposal_id == state[1] else None


def check_data_by_search(
    proposed: Sequence[Proposing], reads: Sequence[DataRead], final: Mapping[str, Decided]
) -> list[Violation]:
    """Search an order in which timestamps rise from commit to commit and every read is explained.

    How a proposal ended is known in the end, also when its client was not told.
    """
    operations = [
        Operation(read.key, read.begun_ns, read.ended_ns, _DataAction(read.proposal_id, 0, "READ"))
        for read in reads
    ]
    for each in proposed:
        decided = final.get(each.proposal_id)
        if decided is not None and decided.status in (COMMITTED, REJECTED):
            told = each.status == decided.status
            operations.append(
                Operation(
                    each.key,
                    each.begun_ns,
                    each.ended_ns if told else None,
                    _DataAction(each.proposal_id, each.timestamp, decided.status),
                )
            )
    return [
        Violation(
            "linearizable by search",
            f"data {found.key}, {found.operations} operations, {found.verdict.value}: "
            f"{found.reason}",
        )
        for found in check_history(operations, AgreedData())
        if found.verdict is not Verdict.LINEARIZABLE
    ]
