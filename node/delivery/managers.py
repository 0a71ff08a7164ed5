"""Phase two over the channels of resource managers: who is asked, and what an answer means.

When a new leader finds a branch of which its predecessor may have had the answer, it asks what
became of it, records what it hears, and acts only then. A branch whose manager could not be reached
or could not do it waits; when a manager registers its resource anew, it is tried at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from api.rm_messages import Called, CallKind, ResultStatus, application_data_of, encode
from node.consensus.proposals import Answer as ProposalAnswer
from node.consensus.runtime import Runtime
from node.delivery.calls import Answer, Cancel, Verdict
from node.delivery.leader import Leader
from node.delivery.relay import ManagerReply, Outcome, Relay
from statemachine.codec import encode_request
from statemachine.commands import RecordBranchAnswer, Request
from statemachine.positions import Position
from statemachine.transactions.channel_rows import (
    ChannelSession,
    get_session,
    latest_registration,
    reachable_sessions,
)
from statemachine.transactions.planning import Operation
from statemachine.transactions.rows import Branch, Global
from statemachine.transactions.statuses import GlobalStatus, Mode

GREATEST_WAITING: Final = 100_000
"""Branches that are remembered to be tried when their resource is registered anew. The others
wait until their time has come.
"""

BranchKey = tuple[str, int]
"""An xid and a branch of it."""

_PROPOSAL_S: Final = 5.0

_KINDS: Final = {Operation.COMMIT: CallKind.COMMIT, Operation.ROLLBACK: CallKind.ROLLBACK}

_ASKED_FIRST: Final = frozenset({Mode.XA, Mode.AT, Mode.TCC, Mode.TXC})
"""Their managers can tell from what they keep: XA RECOVER, undo rows, fences."""

_DONE: Final = {
    Operation.COMMIT: ResultStatus.COMMITTED,
    Operation.ROLLBACK: ResultStatus.ROLLED_BACK,
}
_CONTRARY: Final = {
    Operation.COMMIT: ResultStatus.ROLLED_BACK,
    Operation.ROLLBACK: ResultStatus.COMMITTED,
}
_UNRETRYABLE: Final = frozenset(
    {ResultStatus.COMMIT_FAILED_UNRETRYABLE, ResultStatus.ROLLBACK_FAILED_UNRETRYABLE}
)

_TIMEOUT: Final = "TIMEOUT"

_NOT_SENT: Final = Answer(Verdict.RETRY, failure_type="NOT_SENT")
"""The driver's word for a call of which nothing has left this node."""


class Managers:
    """`calls.Channel` of a node."""

    def __init__(
        self, engine: Leader, runtime: Runtime, relay: Relay, *, call_timeout_s: float
    ) -> None:
        self.engine = engine
        self.runtime = runtime
        self.relay = relay
        self.call_timeout_s = call_timeout_s
        self.on_wake: Callable[[Sequence[BranchKey]], None] = lambda _: None
        """Called with branches that are to be tried again at once."""
        self._waiting: dict[str, dict[BranchKey, None]] = {}
        """Branches by the resource that they wait for."""
        self._waiting_count = 0
        self._seen = engine.machine.channel_revision
        self._seen_upto = Position(0, 0)
        self._term = -1
        self._led_since_ms = 0
        """The replicated wall time when this node became the leader of this term."""
        self._asked: set[BranchKey] = set()
        """Branches of which was asked in this term what became of them."""

        engine.notices.on_applied.append(self._on_applied)
        engine.notices.on_role_change.append(self._on_role_change)

    def send(
        self,
        row: Global,
        branch: Branch,
        operation: Operation,
        epoch: int,
        on_answer: Callable[[Answer], None],
    ) -> Cancel:
        call = ManagerCall(self, row, branch, operation, epoch, on_answer)
        if self._is_in_doubt(row, branch):
            self._asked.add((row.xid, branch.branch_id))
            call.ask_first()
        else:
            call.begin()
        return call.cancel

    # --- terms

    def _on_role_change(self) -> None:
        """Forget what belongs to another term; what was decided up to now, others decided."""
        if not self.engine.leader_ready or self._term == self.engine.raft.term:
            return
        self._term = self.engine.raft.term
        self._led_since_ms = self.engine.machine.wall_ms
        self._asked.clear()
        self._waiting.clear()
        self._waiting_count = 0

    def _is_in_doubt(self, row: Global, branch: Branch) -> bool:
        """Whether an earlier leader may have had the branch called."""
        return (
            branch.mode in _ASKED_FIRST
            and row.status is not GlobalStatus.ASYNC_COMMITTING
            and row.decided_ms <= self._led_since_ms
            and (row.xid, branch.branch_id) not in self._asked
            and len(self._asked) < GREATEST_WAITING
        )

    def may_call(self, epoch: int) -> bool:
        """Whether this node surely leads in that term still."""
        engine = self.engine
        fresh_s = engine.now() - engine.reads.quorum_confirmed_at
        leads = engine.leader_ready and engine.raft.term == epoch
        return leads and fresh_s < engine.settings.election_timeout_min_s

    # --- waking

    def wait(self, branch: BranchKey, resource_id: str, since: Position, revision: object) -> None:
        """A call came to nothing: try again once the resource is registered; it may have been."""
        if revision != self.engine.machine.channel_revision and since < latest_registration(
            self.engine.machine_store, resource_id
        ):
            self.on_wake([branch])
        elif self._waiting_count < GREATEST_WAITING:
            waiting = self._waiting.setdefault(resource_id, {})
            self._waiting_count += branch not in waiting
            waiting[branch] = None

    def settled(self, branch: BranchKey, resource_id: str) -> None:
        """A branch waits no more."""
        waiting = self._waiting.get(resource_id)
        if waiting is not None and branch in waiting:
            del waiting[branch]
            self._waiting_count -= 1
            if not waiting:
                del self._waiting[resource_id]

    def _on_applied(self) -> None:
        revision = self.engine.machine.channel_revision
        if revision == self._seen:
            return
        self._seen = revision
        before, self._seen_upto = self._seen_upto, self.engine.machine.applied_position
        for resource_id in list(self._waiting):
            if latest_registration(self.engine.machine_store, resource_id) > before:
                branches = self._waiting.pop(resource_id)
                self._waiting_count -= len(branches)
                self.on_wake(list(branches))


class ManagerCall:
    """One call: to the best session, to the next when it is gone."""

    def __init__(
        self,
        managers: Managers,
        row: Global,
        branch: Branch,
        operation: Operation,
        epoch: int,
        on_answer: Callable[[Answer], None],
    ) -> None:
        self._managers = managers
        self._row = row
        self._branch = branch
        self._operation = operation
        self._epoch = epoch
        self._on_answer = on_answer
        engine = managers.engine
        self._since = engine.machine.applied_position
        self._revision = engine.machine.channel_revision
        self._owner_gone = (
            branch.session_id != 0 and get_session(engine.machine_store, branch.session_id) is None
        )
        self._sessions = _in_turn(branch, reachable_sessions(engine.machine_store, branch))
        self._called = b""
        self._cancel: Cancel | None = None
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        if self._cancel is not None:
            self._cancel()

    def begin(self) -> None:
        kind = _KINDS.get(self._operation)
        if kind is None:
            self._answer_soon(_not_done("NOT_CONNECTED", "it is not called over a channel"))
            return
        self._ask(kind, list(self._sessions), self._on_reply)

    def ask_first(self) -> None:
        """Ask what became of the branch, then act."""
        self._ask(CallKind.STATUS, list(self._sessions), self._on_status)

    # --- sessions in turn

    def _ask(
        self,
        kind: CallKind,
        sessions: list[ChannelSession],
        on_reply: Callable[[ManagerReply], None],
    ) -> None:
        if not sessions:
            self._answer_soon(self._unreached())
            return
        session = sessions.pop(0)

        def replied(reply: ManagerReply) -> None:
            self._cancel = None
            if self._cancelled:
                return
            on_this_way = reply.outcome in (Outcome.GONE, Outcome.BUSY, Outcome.UNREACHABLE)
            if on_this_way and sessions:
                self._proceed(lambda: self._ask(kind, sessions, on_reply))
            else:
                on_reply(reply)

        managers = self._managers
        self._cancel = managers.relay.ask(
            session, kind, self._message(), self._epoch, managers.call_timeout_s, replied
        )

    def _message(self) -> bytes:
        branch = self._branch
        return encode(
            Called(
                xid=self._row.xid,
                branch_id=branch.branch_id,
                mode=branch.mode.value,
                resource_id=branch.resource_id,
                application_data=application_data_of(branch.application_data),
                epoch=self._epoch,
                phase_one_done=branch.did_phase_one,
                owner_gone=self._owner_gone,
            )
        )

    def _proceed(self, go_on: Callable[[], None]) -> None:
        """Do the next step, if this node surely leads still."""
        if self._managers.may_call(self._epoch):
            go_on()
        else:
            self._answer(_NOT_SENT)

    # --- answers

    def _on_status(self, reply: ManagerReply) -> None:
        if reply.outcome is not Outcome.ANSWERED:
            self._answer(self._of(reply))
            return
        engine = self._managers.engine
        command = RecordBranchAnswer(
            epoch=self._epoch,
            xid=self._row.xid,
            branch_id=self._branch.branch_id,
            answer=reply.status,
        )
        expires_at_ms = engine.stamps.elapsed_ms() + int(2_000 * _PROPOSAL_S) + 1_000
        request = encode_request(Request(expires_at_ms, None, (command,)))
        engine.propose_internal(
            request, engine.now() + _PROPOSAL_S, lambda answer: self._on_recorded(reply, answer)
        )

    def _on_recorded(self, reply: ManagerReply, answer: ProposalAnswer) -> None:
        if self._cancelled:
            return
        if isinstance(answer, Exception):
            self._answer(_not_done("STATUS_NOT_RECORDED", str(answer)))
        elif reply.status == _DONE[self._operation]:
            self._answer(Answer(Verdict.DONE))
        elif reply.status == _CONTRARY[self._operation]:
            message = f"its resource manager says that it is {reply.status}: {reply.detail}"
            self._answer(_failed("DECIDED_OTHERWISE", message))
        else:
            self._proceed(self.begin)

    def _on_reply(self, reply: ManagerReply) -> None:
        self._answer(self._of(reply))

    def _of(self, reply: ManagerReply) -> Answer:
        """Return what a reply to the call itself means."""
        if reply.outcome is not Outcome.ANSWERED:
            if reply.outcome is Outcome.TIMEOUT:
                timeout_s = self._managers.call_timeout_s
                return _not_done(_TIMEOUT, f"no answer within {timeout_s:g} s")
            return _not_done(reply.outcome.value, reply.detail)
        if reply.status == _DONE[self._operation]:
            return Answer(Verdict.DONE)
        if reply.not_found:
            return self._not_found(reply)
        if reply.status in _UNRETRYABLE:
            return _failed(reply.status, reply.detail)
        return _not_done(reply.status, reply.detail)

    def _not_found(self, reply: ManagerReply) -> Answer:
        """The database does not know the XA branch. Final only when nobody can prepare it."""
        if self._operation is Operation.ROLLBACK and self._owner_gone:
            return Answer(Verdict.DONE)
        return Answer(Verdict.NOTA, failure_type="NOT_FOUND", failure_message=reply.detail)

    def _unreached(self) -> Answer:
        branch = self._branch
        if branch.mode is Mode.LCN:
            return _not_done("NOT_CONNECTED", "its channel session is not connected")
        message = f"no resource manager of {branch.resource_id} is connected"
        return _not_done("NOT_CONNECTED", message)

    def _answer_soon(self, answer: Answer) -> None:
        timer = self._managers.runtime.call_later(0.0, lambda: self._answer(answer))
        self._cancel = timer.cancel

    def _answer(self, answer: Answer) -> None:
        if self._cancelled:
            return
        self._cancelled = True
        self._on_answer(answer)
        key, resource_id = (self._row.xid, self._branch.branch_id), self._branch.resource_id
        if answer.verdict in (Verdict.DONE, Verdict.FAILED):
            self._managers.settled(key, resource_id)
        elif answer is not _NOT_SENT:
            self._managers.wait(key, resource_id, self._since, self._revision)


def _in_turn(branch: Branch, sessions: list[ChannelSession]) -> list[ChannelSession]:
    """Begin with another session after one that did not answer: it may never do."""
    if not sessions or branch.failure is None or branch.failure.type != _TIMEOUT:
        return sessions
    first = branch.attempts % len(sessions)
    return sessions[first:] + sessions[:first]


def _not_done(kind: str, message: str) -> Answer:
    return Answer(Verdict.RETRY, failure_type=kind, failure_message=message)


def _failed(kind: str, message: str) -> Answer:
    return Answer(Verdict.FAILED, failure_type=kind, failure_message=message)
