"""Data proposals under faults: each simulated node votes, clients propose, and the end is checked.

The node's own `Voter` decides what is said; only what carries it, a task in a node, is made here.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from node.consensus.engine import Engine
from node.consensus.proposals import Answer
from node.voting import Voter
from statemachine import keys
from statemachine.codec import encode_request
from statemachine.commands import AnyCommand, ProposeData, Request
from statemachine.outcomes import Applied, Pending, Position, ProposalDecided, RequestOutcome
from statemachine.state import load_state
from statemachine.store import Reader
from statemachine.stored_proposals import (
    ProposalRow,
    ProposalState,
    get_committed,
    get_proposal,
    majority,
    objection,
    owed_ballots,
)
from statemachine.tickets import get_ticket
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.world import SimulatedRuntime, Violation

KEYS = ("a", "b", "c")
WINDOW_MS = 4_000
_TIMEOUT_S = 5.0
_RETRY_S = 0.2


class SimulatedVoting:
    """Drives the voter of one incarnation of a node."""

    def __init__(self, cluster: SimulatedCluster, name: str, engine: Engine) -> None:
        self._engine = engine
        self._runtime = SimulatedRuntime(cluster.world, cluster.nodes[name].process)
        self._voter = Voter(name, engine.machine_store)
        self._asking = False
        engine.notices.on_applied.append(self._step_soon)
        engine.notices.on_role_change.append(self._step_soon)
        self._runtime.call_soon(self._step)

    def _step_soon(self) -> None:
        self._runtime.call_soon(self._step)

    def _step(self) -> None:
        if self._asking:
            return
        engine = self._engine
        commands = self._voter.step(engine.now(), leads=engine.leader_ready)
        if commands:
            self._asking = True
            self._propose(commands, self._answered)
            return
        pause_s = self._voter.pause_s(engine.now())
        if pause_s is not None:
            self._runtime.call_later(pause_s + 0.01, self._step)

    def _answered(self, answer: Answer) -> None:
        self._asking = False
        pause_s = 0.0 if isinstance(answer, RequestOutcome) else _RETRY_S
        self._runtime.call_later(pause_s, self._step)

    def _propose(self, commands: list[AnyCommand], on_answer: Callable[[Answer], None]) -> None:
        engine = self._engine
        expires_at_ms = engine.stamps.elapsed_ms() + 2 * int(_TIMEOUT_S * 1000)
        request = encode_request(Request(expires_at_ms, None, tuple(commands)))
        engine.propose_internal(request, engine.now() + _TIMEOUT_S, on_answer)


@dataclass(slots=True)
class Proposed:
    """What a client proposed, and what it was told."""

    proposal_id: str
    key: str
    timestamp: int
    ticket: Position | None = None
    """It waits for the decision."""
    decided: ProposalDecided | None = None


@dataclass(slots=True)
class ProposalClients:
    """Propose through any node, for few keys, with timestamps that are often too low.

    `tests.simulation.clients.Clients` of data proposals.
    """

    cluster: SimulatedCluster
    rate_per_s: float = 6.0
    running: bool = False
    sent: list[Proposed] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.cluster.on_started.append(self._attach)

    def start(self) -> None:
        self.running = True
        self._next()

    def stop(self) -> None:
        self.running = False

    def at_rest(self) -> bool:
        return everything_is_said(self.cluster)

    def check(self) -> None:
        check_proposals(self.cluster, self)

    def seen(self) -> Iterable[object]:
        return self.sent

    def _attach(self, name: str) -> None:
        engine = self.cluster.nodes[name].engine
        assert engine is not None
        SimulatedVoting(self.cluster, name, engine)

    def _next(self) -> None:
        world = self.cluster.world
        if self.running:
            self._send()
            world.at(world.rng.expovariate(self.rate_per_s), self._next)

    def _send(self) -> None:
        rng = self.cluster.world.rng
        name = rng.choice(self.cluster.names)
        engine = self.cluster.engine(name)
        if engine is None or engine.membership.in_force is None:
            return
        number = next(self._numbers)
        proposed = Proposed(f"p{number}", rng.choice(KEYS), max(0, number + rng.randrange(-9, 3)))
        self.sent.append(proposed)
        voters = sorted(member.node_id for member in engine.membership.in_force.voters)
        command = ProposeData(
            proposal_id=proposed.proposal_id,
            integer_id=False,
            key=proposed.key,
            data=proposed.proposal_id.encode(),
            timestamp=proposed.timestamp,
            proposer=name,
            voters=tuple(voters),
            window_ms=WINDOW_MS,
        )

        def answered(answer: Answer) -> None:
            if not isinstance(answer, RequestOutcome):
                self.counters[f"proposals_{type(answer).__name__}"] += 1
                return
            outcome = answer.outcomes[0]
            if isinstance(outcome, Pending):
                proposed.ticket = outcome.ticket
                engine.notices.on_applied.append(look)

        def look() -> None:
            """What a waiting request does at each entry: see whether its ticket is settled."""
            if proposed.ticket is None or proposed.decided is not None:
                return
            ticket = get_ticket(engine.machine_store, proposed.ticket)
            if ticket is not None and isinstance(ticket.outcome, Applied):
                assert isinstance(ticket.outcome.result, ProposalDecided)
                proposed.decided = ticket.outcome.result
                self.counters[f"proposals_{proposed.decided.status}"] += 1

        def submit() -> None:
            expires_at_ms = engine.stamps.elapsed_ms() + int(_TIMEOUT_S * 2000)
            request = encode_request(Request(expires_at_ms, None, (command,)))
            try:
                engine.propose(request, engine.now() + _TIMEOUT_S, answered)
            except Exception as error:
                answered(error)

        self.cluster.run_as(name, submit)


def everything_is_said(cluster: SimulatedCluster) -> bool:
    """Nothing is undecided, and no member owes a ballot. Who was removed never casts it."""
    members = [engine.identity.node_id for engine in cluster.members()]
    return all(
        load_state(engine.machine_store).undecided_proposals == 0
        and not any(owed_ballots(engine.machine_store, name, limit=1) for name in members)
        for engine in cluster.members()
    )


def check_proposals(cluster: SimulatedCluster, clients: ProposalClients) -> None:
    """Raises: Violation: votes, decisions and data do not belong together on some node."""
    members = {engine.identity.node_id for engine in cluster.members()}
    for engine in cluster.members():
        _check_state(engine.identity.node_id, engine.machine_store, clients, members)


def _check_state(
    name: str, reader: Reader, clients: ProposalClients, members: Collection[str]
) -> None:
    rows: dict[str, ProposalRow] = {}
    for proposed in clients.sent:
        row = get_proposal(reader, proposed.proposal_id)
        if row is not None:
            rows[proposed.proposal_id] = row
            _check_votes(name, proposed.proposal_id, row, members)
        if proposed.decided is not None:
            _check_answer(name, proposed.decided, row)
    count = len(reader.scan(keys.PROPOSAL, keys.stop_of(keys.PROPOSAL), limit=len(rows) + 1))
    if count != len(rows):
        raise Violation(f"{name} has {count} proposals, {len(rows)} of them were sent")
    _check_data(name, reader, rows)


def _check_votes(name: str, proposal_id: str, row: ProposalRow, members: Collection[str]) -> None:
    """The votes say what the rule says, and the decision is what they come to."""
    what = f"{name}: {proposal_id} is {row.state.name}"
    if any(vote is not None and vote.accept != (not objection(row)) for vote in row.votes):
        raise Violation(f"{what}, and a node voted against the rule: {row.votes}")
    accepted = sum(vote is not None and vote.accept for vote in row.votes)
    if row.state is ProposalState.COMMITTED:
        if accepted < majority(row.voters):
            raise Violation(f"{what} with {accepted} votes of {len(row.voters)}")
        silent = [
            voter
            for voter, vote in zip(row.voters, row.votes, strict=True)
            if voter in members and not (vote is not None and vote.applied)
        ]
        if silent:
            raise Violation(f"{what}, and {silent} never said that they applied it: {row.votes}")
    elif any(vote is not None and vote.applied for vote in row.votes):
        raise Violation(f"{what}, and a node applied it")


def _check_answer(name: str, decided: ProposalDecided, row: ProposalRow | None) -> None:
    """What a client was told holds everywhere, and no vote in it changed later."""
    if row is None:
        raise Violation(f"{name} knows nothing of {decided.proposal_id}, which is decided")
    if (decided.status, decided.decided_at) != (row.state.name, row.decided_at):
        raise Violation(f"{name}: {decided.proposal_id} was {decided.status}, is {row.state.name}")
    for cast, vote in zip(decided.votes, row.votes, strict=True):
        if cast.vote != "PENDING" and (vote is None or (cast.vote == "ACCEPT") != vote.accept):
            raise Violation(f"{name}: {cast.node_id} changed its vote on {decided.proposal_id}")


def _check_data(name: str, reader: Reader, rows: dict[str, ProposalRow]) -> None:
    """For each key, timestamps rise from commit to commit, and the last one is what is stored."""
    commits: dict[str, list[tuple[Position, int, str]]] = defaultdict(list)
    for proposal_id, row in rows.items():
        if row.state is ProposalState.COMMITTED:
            commits[row.key].append((row.decided_at, row.timestamp, proposal_id))
    for key, made in sorted(commits.items()):
        made.sort()
        timestamps = [timestamp for _, timestamp, _ in made]
        if any(later <= earlier for earlier, later in itertools.pairwise(timestamps)):
            raise Violation(f"{name}: the timestamps of {key} do not rise: {timestamps}")
        value = get_committed(reader, key)
        if value is None or (value.proposal_id, value.data) != (made[-1][2], made[-1][2].encode()):
            raise Violation(f"{name}: {key} does not hold what was committed last")
