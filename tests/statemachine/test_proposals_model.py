"""Data proposals against a model that is too simple to be wrong, over histories drawn at random."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from statemachine import keys
from statemachine.commands import Ballot, DecideProposal, ProposeData, VoteProposals
from statemachine.outcomes import Applied, Pending, ProposalDecided, Rejected
from statemachine.proposals import KEPT_MS
from statemachine.state import load_state
from statemachine.stored_proposals import (
    decidable_proposals,
    get_committed,
    get_proposal,
    owed_ballots,
)
from statemachine.tickets import get_ticket
from tests.statemachine.building import Log

VOTERS = ("a", "b", "c")
WINDOW_MS = 1_000
KEYS = ("", "k")


@dataclass
class ModelProposal:
    proposal_id: str
    key: str
    named: bool
    timestamp: int
    deadline_ms: int
    kept_until_ms: int = 0
    status: str = "PROPOSED"
    votes: dict[str, bool] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return sum(self.votes.values()) >= 2

    @property
    def refused(self) -> bool:
        return sum(not vote for vote in self.votes.values()) >= 2

    @property
    def owing(self) -> list[str]:
        if self.status == "COMMITTED":
            return [voter for voter in VOTERS if voter not in self.applied]
        return [voter for voter in VOTERS if voter not in self.votes]


@dataclass
class ModelValue:
    proposal_id: str
    timestamp: int
    lasting: bool


class ProposalsAgainstModel(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.log = Log()
        self.proposals: dict[str, ModelProposal] = {}
        self.values: dict[str, ModelValue] = {}

    def end(self, proposal: ModelProposal, status: str) -> None:
        value = self.values.get(proposal.key)
        if status == "COMMITTED":
            if value is not None and value.timestamp >= proposal.timestamp:
                status = "REJECTED"
            else:
                lasting = proposal.named or (value is not None and value.lasting)
                self.values[proposal.key] = ModelValue(
                    proposal.proposal_id, proposal.timestamp, lasting
                )
        proposal.status = status
        proposal.kept_until_ms = self.log.elapsed_ms + KEPT_MS

    # --- what happens

    @rule(
        proposal_id=st.sampled_from(["p", "q", "r", "s", "k"]),
        key=st.sampled_from(KEYS),
        timestamp=st.integers(0, 5),
    )
    def propose(self, proposal_id: str, key: str, timestamp: int) -> None:
        outcome = self.log.do(
            ProposeData(
                proposal_id=proposal_id,
                integer_id=False,
                key=key,
                data=b"1",
                timestamp=timestamp,
                proposer="a",
                voters=VOTERS,
                window_ms=WINDOW_MS,
            )
        )
        known = self.proposals.get(proposal_id)
        if known is None:
            assert isinstance(outcome, Pending)
            deadline_ms = self.log.elapsed_ms + WINDOW_MS
            self.proposals[proposal_id] = ModelProposal(
                proposal_id, key or proposal_id, bool(key), timestamp, deadline_ms
            )
        elif (known.key, known.timestamp) != (key or proposal_id, timestamp):
            assert isinstance(outcome, Rejected)
        elif known.status == "PROPOSED":
            assert isinstance(outcome, Pending)
        else:
            assert isinstance(outcome, Applied)
            assert isinstance(outcome.result, ProposalDecided)
            assert outcome.result.status == known.status

    @precondition(lambda self: self.proposals)
    @rule(data=st.data(), node_id=st.sampled_from([*VOTERS, "d"]))
    def vote(self, data: st.DataObject, node_id: str) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.proposals)), min_size=1))
        ballots = []
        for proposal_id in chosen:
            accept, applied = (
                data.draw(st.sampled_from([True, True, False])),
                data.draw(st.booleans()),
            )
            ballots.append(Ballot(proposal_id, accept, "", applied))
            proposal = self.proposals[proposal_id]
            if node_id not in VOTERS:
                continue
            proposal.votes.setdefault(node_id, accept)
            if applied and proposal.status == "COMMITTED" and node_id not in proposal.applied:
                proposal.applied.append(node_id)
        self.log.do(VoteProposals(node_id=node_id, ballots=tuple(ballots)))

    @precondition(lambda self: self.proposals)
    @rule(data=st.data())
    def decide(self, data: st.DataObject) -> None:
        proposal = self.proposals[data.draw(st.sampled_from(sorted(self.proposals)))]
        outcome = self.log.do(DecideProposal(proposal_id=proposal.proposal_id))
        if proposal.status == "PROPOSED":
            if proposal.accepted:
                self.end(proposal, "COMMITTED")
            elif proposal.refused:
                self.end(proposal, "REJECTED")
            else:
                assert isinstance(outcome, Rejected)
                return
        assert isinstance(outcome, Applied)
        assert isinstance(outcome.result, ProposalDecided)
        assert outcome.result.status == proposal.status

    @rule(duration_ms=st.sampled_from([1, WINDOW_MS - 1, WINDOW_MS, KEPT_MS - 1, KEPT_MS]))
    def time_passes(self, duration_ms: int) -> None:
        self.log.wait(duration_ms)
        self.log.fire_due()
        now_ms = self.log.elapsed_ms
        undecided = [each for each in self.proposals.values() if each.status == "PROPOSED"]
        # Those that are due end in the order of their timers.
        due = [each for each in undecided if each.deadline_ms <= now_ms]
        for proposal in sorted(due, key=lambda each: each.deadline_ms):
            votes = "COMMITTED" if proposal.accepted else "REJECTED" if proposal.refused else ""
            self.end(proposal, votes or "EXPIRED")
        forgotten = [
            each
            for each in self.proposals.values()
            if each.status != "PROPOSED" and each.kept_until_ms <= now_ms
        ]
        for proposal in forgotten:
            del self.proposals[proposal.proposal_id]
            value = self.values.get(proposal.key)
            if value and not value.lasting and value.proposal_id == proposal.proposal_id:
                del self.values[proposal.key]

    @rule()
    def restart(self) -> None:
        self.log.machine.reload()

    # --- what holds

    @invariant()
    def every_proposal_is_as_the_model_has_it(self) -> None:
        for proposal in self.proposals.values():
            row = get_proposal(self.log.store, proposal.proposal_id)
            assert row is not None
            assert row.state.name == proposal.status
            votes = {
                voter: vote.accept
                for voter, vote in zip(row.voters, row.votes, strict=True)
                if vote is not None
            }
            assert votes == proposal.votes
            ticket = get_ticket(self.log.store, row.proposed_at)
            if proposal.status == "PROPOSED":
                assert ticket is not None
                assert ticket.outcome is None
            else:
                assert ticket is None or ticket.outcome is not None
        kept = {keys.name_of(key[2:]) for key, _ in self.log.rows(keys.PROPOSAL)}
        assert kept == set(self.proposals)

    @invariant()
    def every_key_has_the_data_that_the_rule_allows(self) -> None:
        for key, value in self.values.items():
            row = get_committed(self.log.store, key)
            assert row is not None
            assert (row.proposal_id, row.timestamp) == (value.proposal_id, value.timestamp)
        stored = {keys.name_of(key[2:]) for key, _ in self.log.rows(keys.COMMITTED_DATA)}
        assert stored == set(self.values)

    @invariant()
    def everybody_owes_exactly_what_it_has_not_said(self) -> None:
        for voter in VOTERS:
            owed = {each.proposal_id for each in self.proposals.values() if voter in each.owing}
            assert set(owed_ballots(self.log.store, voter, limit=100)) == owed
        decidable = {
            each.proposal_id
            for each in self.proposals.values()
            if each.status == "PROPOSED" and (each.accepted or each.refused)
        }
        assert {proposal_id for _, proposal_id in decidable_proposals(self.log.store)} == decidable

    @invariant()
    def the_counts_are_those_of_the_rows(self) -> None:
        state = load_state(self.log.store)
        undecided = [each for each in self.proposals.values() if each.status == "PROPOSED"]
        assert state.undecided_proposals == len(undecided)
        assert state.undecided_proposals == len(self.log.rows(keys.PROPOSED_DATA))
        assert state.decided_proposals == len(self.proposals) - len(undecided)
        assert state.committed_keys == len(self.values)


ProposalsAgainstModel.TestCase.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None
)
TestProposalsAgainstModel = ProposalsAgainstModel.TestCase
