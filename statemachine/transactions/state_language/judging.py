"""What a call of a ServiceTask means to its saga: done, failed, unknown; once more or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from statemachine.transactions.rows import Branch
from statemachine.transactions.state_language import values
from statemachine.transactions.state_language.definitions import definition_of
from statemachine.transactions.state_language.expressions import EvaluationError, Scope, holds
from statemachine.transactions.state_language.failures import catcher, is_meant, retry_rule
from statemachine.transactions.state_language.model import ServiceTask, StatusRule, SubStateMachine
from statemachine.transactions.state_language.runs import Frame, Instance, Run, get_run, put_run
from statemachine.transactions.state_language.values import UnusableValueError
from statemachine.write_buffer import WriteBuffer

GREATEST_INTERVAL_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a call came to."""

    status: str
    """SU, FA or UN."""
    failure_type: str = ""
    failure_message: str = ""
    refused: bool = False
    """The participant says that nothing was done."""

    @property
    def definite(self) -> bool:
        return self.status != "UN"


class Judge:
    """One branch of a saga that follows a definition."""

    def __init__(self, writes: WriteBuffer, xid: str, branch: Branch) -> None:
        self._writes = writes
        self._xid = xid
        self._branch = branch
        run = get_run(writes, xid)
        assert run is not None, "a saga that follows a definition has a run"
        self._run = run
        self._frame, self._instance = _found(run, branch.branch_id)
        task = definition_of(writes, run.machines[self._frame.machine]).states[self._frame.state]
        assert isinstance(task, ServiceTask), "nothing else makes calls"
        self._task = task

    def done(self, result: bytes) -> Judgement:
        """Judge an answer by the rules of `Status`; without one that holds, it is done."""
        try:
            scope = Scope(values.decode(result) if result else None, {"xid": self._xid})
        except UnusableValueError:
            return Judgement("SU")
        for rule in self._task.status:
            if rule.condition is not None and _holds(rule, scope):
                status = rule.status
                if status == "SU":
                    break
                message = f"its answer means {status}"
                return Judgement(status, f"STATUS_{status}", message, refused=status == "FA")
        return Judgement("SU")

    def failed(self, failure_type: str, message: str, *, refused: bool) -> Judgement:
        """Judge a call that did not succeed, or of which nobody knows."""
        for rule in self._task.status:
            if rule.failures and is_meant(rule.failures, failure_type, refused=refused):
                return Judgement(rule.status, failure_type, message, refused)
        known = refused or not self._task.changes_data
        return Judgement("FA" if known else "UN", failure_type, message, refused)

    def repetition_ms(self, judgement: Judgement) -> int | None:
        """Return after which time it is called again, and count that; None: it is not."""
        rules = self._task.retries
        place = retry_rule(rules, judgement.failure_type, refused=judgement.refused)
        if place is None:
            return None
        counts = self._instance.repetitions
        count, rule = counts[place], rules[place]
        if count >= rule.greatest_attempts:
            return None
        self._change(repetitions=(*counts[:place], count + 1, *counts[place + 1 :]))
        interval_ms = rule.interval_ms
        for _ in range(min(count, 1_000)):
            if interval_ms >= GREATEST_INTERVAL_MS or rule.backoff_permille == 1_000:
                break
            interval_ms = interval_ms * rule.backoff_permille // 1_000
        return min(interval_ms, GREATEST_INTERVAL_MS)

    def give_up(self, judgement: Judgement) -> None:
        """Note of a failure what its branch does not say."""
        self._change(refused=judgement.refused)

    def _change(self, **fields: object) -> None:
        instance = msgspec.structs.replace(self._instance, **fields)
        active = [instance if each == self._instance else each for each in self._frame.active]
        frame = msgspec.structs.replace(self._frame, active=tuple(active))
        frames = tuple([frame if each == self._frame else each for each in self._run.frames])
        put_run(self._writes, self._xid, msgspec.structs.replace(self._run, frames=frames))

    def is_caught(self, judgement: Judgement) -> bool:
        """Whether a state takes the failure in: its own `Catch`, or that of one above it."""
        frame: Frame | None = self._frame
        while frame is not None:
            state = definition_of(self._writes, self._run.machines[frame.machine]).states[
                frame.state
            ]
            assert isinstance(state, ServiceTask | SubStateMachine), "nothing else is waited for"
            kind, refused = judgement.failure_type, judgement.refused
            if catcher(state.catches, kind, refused=refused) is not None:
                return True
            above = frame.parent
            frame = next((each for each in self._run.frames if each.number == above), None)
        return False


def _holds(rule: StatusRule, scope: Scope) -> bool:
    assert rule.condition is not None
    try:
        return holds(rule.condition, scope)
    except EvaluationError:
        return False


def _found(run: Run, branch_id: int) -> tuple[Frame, Instance]:
    for frame in run.frames:
        for instance in frame.active:
            if instance.branch_id == branch_id:
                return frame, instance
    raise AssertionError(f"branch {branch_id} is called and waited for by no state")
