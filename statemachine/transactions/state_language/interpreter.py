"""The interpreter: moves a saga on from state to state until only calls are waited for.

It runs in apply and computes with nothing but rows: when a call is reported, it works out what
follows, registers the next calls as branches with their computed bodies, and stops. So nothing is
lost with a leader, and a new one makes the calls that the rows name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, assert_never

import msgspec

from statemachine.transactions.rows import Branch, Calls, RetryRule
from statemachine.transactions.state_language import values
from statemachine.transactions.state_language.definitions import definition_of
from statemachine.transactions.state_language.expressions import (
    Budget,
    EvaluationError,
    Scope,
    evaluate,
    holds,
)
from statemachine.transactions.state_language.failures import catcher
from statemachine.transactions.state_language.model import (
    Choice,
    Compensation,
    CompensationTrigger,
    Definition,
    Fail,
    Loop,
    ServiceTask,
    State,
    SubStateMachine,
    Succeed,
)
from statemachine.transactions.state_language.runs import (
    GREATEST_STATES_ENTERED,
    Frame,
    Instance,
    Run,
    StateFailure,
    StateRecord,
    get_record,
    get_run,
    put_record,
    put_run,
)
from statemachine.transactions.state_language.templates import Template, fill, fill_leniently
from statemachine.transactions.state_language.values import UnusableValueError
from statemachine.transactions.statuses import BranchStatus, Mode
from statemachine.transactions.transaction import Transaction
from statemachine.write_buffer import WriteBuffer

GREATEST_CONTEXT_BYTES: Final = 128 << 10
"""Of a machine's variables as JSON."""
GREATEST_PAYLOAD_BYTES: Final = 64 << 10
"""Of the body of one call."""
GREATEST_ALL_PAYLOADS_BYTES: Final = 8 << 20
"""Of those of one saga."""
GREATEST_RUN_BYTES: Final = 1 << 20
"""Of the variables of all machines of a saga that are at work."""
GREATEST_CALLS: Final = 1_000
GREATEST_ROUNDS: Final = 500
"""Of one loop."""
GREATEST_FRAMES: Final = 200
"""Sub-machines at work at once."""
GREATEST_SUB_MACHINES: Final = 8
"""Within each other."""
GREATEST_MESSAGE: Final = 500

LOOP_RESULT: Final = "loopResult"

Task = ServiceTask | SubStateMachine


@dataclass(frozen=True, slots=True)
class Ending:
    """A saga is at its end: it commits, or is rolled back for a reason."""

    commit: bool
    reason: str = ""


class Interpreter:
    """One saga while an entry works on it."""

    def __init__(
        self,
        writes: WriteBuffer,
        transaction: Transaction,
        register: Callable[[Branch], int],
        wall_ms: int,
    ) -> None:
        self._writes = writes
        self._transaction = transaction
        self._xid = transaction.row.xid
        self._register = register
        self._wall_ms = wall_ms
        run = get_run(writes, self._xid)
        assert run is not None, "a saga that follows a definition has a run"
        self._run = run
        self._frames = {frame.number: frame for frame in run.frames}
        self._definitions: dict[int, Definition] = {}
        self._contexts: dict[int, tuple[bytes, dict[str, Any]]] = {}
        self._budget = Budget()
        self._ending: Ending | None = None

    def go_on(self) -> Ending | None:
        """Do all that can be done without a further call; None while there are calls to make."""
        moved = False
        while self._ending is None and self._move():
            moved = True
        if moved:
            run = msgspec.structs.replace(self._run, frames=tuple(self._frames.values()))
            put_run(self._writes, self._xid, run)
            if self._ending is None and _size(run) > GREATEST_RUN_BYTES:
                reason = f"TOO_MUCH_DATA: its variables have more than {GREATEST_RUN_BYTES} bytes"
                self._end(commit=False, reason=reason)
        return self._ending

    def _move(self) -> bool:
        """Do one thing; False when there is none."""
        for frame in list(self._frames.values()):
            if frame.record == 0:
                self._enter(frame)
                return True
            for instance in frame.active:
                if instance.branch_id and self._collect(frame, instance):
                    return True
        return False

    def _change(self, frame: Frame, **fields: object) -> Frame:
        changed = msgspec.structs.replace(frame, **fields)
        self._frames[frame.number] = changed
        return changed

    def _definition(self, frame: Frame) -> Definition:
        found = self._definitions.get(frame.machine)
        if found is None:
            found = definition_of(self._writes, self._run.machines[frame.machine])
            self._definitions[frame.machine] = found
        return found

    def _state(self, frame: Frame) -> State:
        return self._definition(frame).states[frame.state]

    def _task(self, frame: Frame) -> Task:
        state = self._state(frame)
        assert isinstance(state, Task), "nothing else is waited for"
        return state

    def _end(self, *, commit: bool, reason: str = "") -> None:
        self._ending = Ending(commit, reason)

    # --- records

    def _record(self, frame: Frame, kind: str, status: str = "RU") -> Frame:
        """Note that a state is entered."""
        number = self._run.entered + 1
        self._run = msgspec.structs.replace(self._run, entered=number)
        record = StateRecord(
            name=frame.path + frame.state,
            kind=kind,
            status=status,
            began_ms=self._wall_ms,
            ended_ms=0 if status == "RU" else self._wall_ms,
        )
        put_record(self._writes, self._xid, number, record)
        return self._change(frame, record=number)

    def _close(self, frame: Frame, status: str, failure: StateFailure | None = None) -> None:
        """Note how a state ended."""
        record = get_record(self._writes, self._xid, frame.record)
        ended = msgspec.structs.replace(
            record, status=status, ended_ms=self._wall_ms, failure=failure
        )
        put_record(self._writes, self._xid, frame.record, ended)

    # --- states

    def _enter(self, frame: Frame) -> None:
        if self._run.entered >= GREATEST_STATES_ENTERED:
            reason = f"TOO_MANY_STATES: it came to {GREATEST_STATES_ENTERED} states and no end"
            self._end(commit=False, reason=reason)
            return
        state = self._state(frame)
        match state:
            case ServiceTask() | SubStateMachine():
                self._begin(self._record(frame, type(state).__name__), state)
            case Choice():
                self._choose(self._record(frame, "Choice"), state)
            case Succeed():
                self._finish(self._record(frame, "Succeed", "SU"))
            case Fail():
                failure = StateFailure(state.error_code, state.message, True, frame.state)
                frame = self._record(frame, "Fail")
                self._close(frame, "FA", failure)
                self._fail(frame, failure)
            case CompensationTrigger():
                self._trigger(self._record(frame, "CompensationTrigger", "SU"), state)
            case Compensation():
                raise AssertionError("nothing leads to a state that undoes another")
            case _:
                assert_never(state)

    def _choose(self, frame: Frame, state: Choice) -> None:
        scope = self._scope(frame)
        try:
            holding = (to for condition, to in state.choices if holds(condition, scope))
            following = next(holding, state.default)
        except EvaluationError as error:
            failure = StateFailure("EXPRESSION_FAILED", str(error)[:GREATEST_MESSAGE], True)
        else:
            if following:
                self._close(frame, "SU")
                self._go(frame, following)
                return
            failure = StateFailure(
                "NO_CHOICE", "no expression holds, and there is no Default", True
            )
        failure = msgspec.structs.replace(failure, state=frame.state)
        self._close(frame, "FA", failure)
        self._fail(frame, failure)

    def _trigger(self, frame: Frame, state: CompensationTrigger) -> None:
        following = self._definition(frame).states.get(state.next)
        reason = f"{frame.path}{state.name} had everything undone"
        if isinstance(following, Fail):
            reason = _reason(following.error_code, following.message)
        if following is not None:
            status = "FA" if isinstance(following, Fail) else "SU"
            frame = self._change(frame, state=state.next)
            self._record(frame, type(following).__name__, status)
        self._end(commit=False, reason=reason)

    def _go(self, frame: Frame, following: str) -> None:
        """Leave a state for the next one, or end the machine."""
        if following:
            self._change(
                frame, state=following, record=0, count=0, begun=0, ended=0, outputs=(), active=(),
                failure=None,
            )  # fmt: skip
        else:
            self._finish(frame)

    def _finish(self, frame: Frame) -> None:
        """A machine has come to its end."""
        if frame.parent == 0:
            self._end(commit=True)
            return
        del self._frames[frame.number]
        parent = self._frames[frame.parent]
        instance = next(each for each in parent.active if each.frame == frame.number)
        self._done(parent, instance, values.decode(frame.context))

    def _fail(self, frame: Frame, failure: StateFailure) -> None:
        """A machine cannot go on: so the state fails that began it, or the saga."""
        if frame.parent == 0:
            state = self._state(frame)
            reason = _reason(failure.type, failure.message)
            if not isinstance(state, Fail):
                reason = f"state {frame.path}{frame.state} failed: {reason}"
            self._end(commit=False, reason=reason)
            return
        del self._frames[frame.number]
        parent = self._frames[frame.parent]
        instance = next(each for each in parent.active if each.frame == frame.number)
        self._undone(parent, instance, failure)

    # --- tasks

    def _begin(self, frame: Frame, task: Task) -> None:
        count, failure = 1, None
        if task.loop is not None:
            try:
                count = self._rounds(frame, task.loop)
            except EvaluationError as error:
                count = 0
                failure = StateFailure("LOOP_FAILED", str(error)[:GREATEST_MESSAGE], True)
        outputs = (b"",) * count
        self._continue(self._change(frame, count=count, outputs=outputs, failure=failure), task)

    def _rounds(self, frame: Frame, loop: Loop) -> int:
        return len(self._elements(frame, loop))

    def _elements(self, frame: Frame, loop: Loop) -> list[Any]:
        found = evaluate(loop.collection, self._scope(frame))
        if not isinstance(found, list):
            raise EvaluationError("Collection is no array")
        if len(found) > GREATEST_ROUNDS:
            raise EvaluationError(
                f"Collection has {len(found)} elements, a loop has at most {GREATEST_ROUNDS} rounds"
            )
        return found

    def _continue(self, frame: Frame, task: Task) -> None:
        """Begin the rounds that may begin; end the state after the last one."""
        parallel = 1 if task.loop is None else task.loop.parallel
        complete = self._is_complete(frame, task)
        while (
            self._ending is None
            and frame.failure is None
            and not complete
            and frame.begun < frame.count
            and len(frame.active) < parallel
        ):
            frame = self._begin_round(frame, task, frame.begun)
        if self._ending is not None or frame.active:
            return
        if frame.failure is not None:
            self._end_failed(frame, task, frame.failure)
            return
        self._close(frame, "SU")
        if task.loop is not None:
            results = [values.decode(each) if each else None for each in frame.outputs]
            merged = self._merged(frame, {LOOP_RESULT: results})
            if isinstance(merged, StateFailure):
                self._end_failed(frame, task, merged)
                return
            frame = merged
        self._go(frame, task.next)

    def _is_complete(self, frame: Frame, task: Task) -> bool:
        if task.loop is None or task.loop.completion is None or not frame.ended:
            return False
        try:
            return holds(task.loop.completion, self._scope(frame, _counts(frame)))
        except EvaluationError:
            # What cannot be said does not hold: then all rounds are made.
            return False

    def _begin_round(self, frame: Frame, task: Task, index: int) -> Frame:
        frame = self._change(frame, begun=frame.begun + 1)
        try:
            scope = self._scope(frame, self._round_variables(frame, task, index))
            body = b"" if task.input is None else self._body(task.input, scope)
        except (EvaluationError, UnusableValueError) as error:
            failure = StateFailure(
                "EXPRESSION_FAILED", str(error)[:GREATEST_MESSAGE], True, frame.state
            )
            return self._change(frame, failure=failure)
        if isinstance(task, SubStateMachine):
            return self._begin_machine(frame, task, index, body, scope)
        return self._call(frame, task, index, body)

    def _call(self, frame: Frame, task: ServiceTask, index: int, body: bytes) -> Frame:
        """Register the branch that a round of a ServiceTask is."""
        undoing = self._undoing(frame, task)
        compensation = self._compensation_of(frame, task, index)
        run = self._run
        run = msgspec.structs.replace(
            run, payload_bytes=run.payload_bytes + len(body) + len(compensation)
        )
        self._run = run
        if self._transaction.row.branches >= GREATEST_CALLS:
            self._end(commit=False, reason=f"TOO_MANY_CALLS: it has made {GREATEST_CALLS} calls")
            return frame
        if run.payload_bytes > GREATEST_ALL_PAYLOADS_BYTES:
            reason = f"TOO_MUCH_DATA: its calls have more than {GREATEST_ALL_PAYLOADS_BYTES} bytes"
            self._end(commit=False, reason=reason)
            return frame
        branch_id = self._register(
            Branch(
                branch_id=0,
                name=self._name(frame, task, index),
                mode=Mode.SAGA,
                status=BranchStatus.REGISTERED,
                resource_id="",
                application_id="",
                unit_id="",
                session_id=0,
                application_data=b"",
                calls=Calls(task.url, "", "" if undoing is None else undoing.url),
                payload=body,
                depends_on=(),
                timeout_ms=task.timeout_ms,
                retry=RetryRule(),
                compensation=compensation,
            )
        )
        record = get_record(self._writes, self._xid, frame.record)
        record = msgspec.structs.replace(record, branches=(*record.branches, branch_id))
        put_record(self._writes, self._xid, frame.record, record)
        instance = Instance(index, branch_id, 0, (0,) * len(task.retries))
        return self._change(frame, active=(*frame.active, instance))

    def _name(self, frame: Frame, task: Task, index: int) -> str:
        return frame.path + task.name + ("" if task.loop is None else f"[{index}]")

    def _begin_machine(
        self, frame: Frame, task: SubStateMachine, index: int, body: bytes, scope: Scope
    ) -> Frame:
        name = self._name(frame, task, index)
        failure = None
        if name.count("/") >= GREATEST_SUB_MACHINES or len(self._frames) >= GREATEST_FRAMES:
            failure = f"{GREATEST_SUB_MACHINES} within each other, {GREATEST_FRAMES} at once"
            failure = f"there are too many sub-machines: at most {failure}"
        elif not isinstance(values.decode(body or b"{}"), dict):
            failure = "Input is no object of variables"
        if failure is not None:
            failed = StateFailure("SUB_MACHINE_FAILED", failure, True, frame.state)
            return self._change(frame, failure=failed)
        machines = [each.name for each in self._run.machines]
        child = Frame(
            number=self._run.last_frame + 1,
            parent=frame.number,
            index=index,
            machine=machines.index(task.machine),
            path=f"{name}/",
            state="",
            context=body or b"{}",
            overlay=self._compensation(self._undoing(frame, task), scope),
        )
        child = msgspec.structs.replace(child, state=self._definition(child).start)
        self._run = msgspec.structs.replace(self._run, last_frame=child.number)
        self._frames[child.number] = child
        return self._change(frame, active=(*frame.active, Instance(index, 0, child.number)))

    def _collect(self, frame: Frame, instance: Instance) -> bool:
        """See what a call came to; False while it is not known."""
        branch = self._transaction.branch(instance.branch_id)
        assert branch is not None, "a call is a branch"
        if branch.status is BranchStatus.REGISTERED:
            return False
        failure = branch.failure
        if branch.status is BranchStatus.PHASE_ONE_FAILED or failure is not None:
            kind, message = ("", "") if failure is None else (failure.type, failure.message)
            definite = (
                not branch.outcome_unknown and branch.status is not BranchStatus.PHASE_ONE_DONE
            )
            failed = StateFailure(kind, message, definite, frame.state, instance.refused)
            self._undone(frame, instance, failed)
            return True
        try:
            answer = values.decode(branch.result) if branch.result else None
        except UnusableValueError as error:
            message = str(error)[:GREATEST_MESSAGE]
            unusable = StateFailure("RESULT_UNUSABLE", message, False, frame.state)
            self._undone(frame, instance, unusable)
        else:
            self._done(frame, instance, answer)
        return True

    def _done(self, frame: Frame, instance: Instance, answer: Any) -> None:
        """A round is done: take its outputs in."""
        task = self._task(frame)
        active = tuple([each for each in frame.active if each.index != instance.index])
        frame = self._change(frame, active=active, ended=frame.ended + 1)
        scope = Scope(answer, self._variables(frame), self._budget)
        found: Frame | StateFailure
        try:
            outputs = {name: fill(template, scope) for name, template in task.output}
            found = self._taken(frame, task, instance.index, outputs)
        except (EvaluationError, UnusableValueError) as error:
            message = str(error)[:GREATEST_MESSAGE]
            found = StateFailure("OUTPUT_FAILED", message, False, frame.state)
        if isinstance(found, StateFailure):
            frame = self._change(frame, failure=frame.failure or found)
        else:
            frame = found
        if instance.branch_id and isinstance(task, ServiceTask):
            self._compute_compensation(frame, task, instance)
        self._continue(frame, task)

    def _taken(
        self, frame: Frame, task: Task, index: int, outputs: dict[str, Any]
    ) -> Frame | StateFailure:
        if task.loop is None:
            return self._merged(frame, outputs) if outputs else frame
        data = values.encode(outputs, GREATEST_CONTEXT_BYTES)
        if sum(map(len, frame.outputs)) + len(data) > GREATEST_CONTEXT_BYTES:
            raise UnusableValueError(f"they have more than {GREATEST_CONTEXT_BYTES} bytes together")
        return self._change(
            frame, outputs=(*frame.outputs[:index], data, *frame.outputs[index + 1 :])
        )

    def _undone(self, frame: Frame, instance: Instance, failure: StateFailure) -> None:
        """A round has failed: no further one begins."""
        active = tuple([each for each in frame.active if each.index != instance.index])
        frame = self._change(
            frame, active=active, ended=frame.ended + 1, failure=frame.failure or failure
        )
        self._continue(frame, self._task(frame))

    def _end_failed(self, frame: Frame, task: Task, failure: StateFailure) -> None:
        self._close(frame, "FA" if failure.definite else "UN", failure)
        rule = catcher(task.catches, failure.type, refused=failure.refused)
        if rule is None:
            self._fail(frame, failure)
        else:
            self._go(self._change(frame, error=failure), rule.next)

    # --- values

    def _merged(self, frame: Frame, outputs: dict[str, Any]) -> Frame | StateFailure:
        context = {**self._context(frame), **outputs}
        try:
            data = values.encode(context, GREATEST_CONTEXT_BYTES)
        except UnusableValueError as error:
            message = f"the variables cannot be kept: {error}"
            return StateFailure("CONTEXT_TOO_LARGE", message, False, frame.state)
        return self._change(frame, context=data)

    def _context(self, frame: Frame) -> dict[str, Any]:
        """Return a machine's variables, which nobody may change."""
        found = self._contexts.get(frame.number)
        if found is None or found[0] is not frame.context:
            found = self._contexts[frame.number] = (frame.context, values.decode(frame.context))
        return found[1]

    def _scope(self, frame: Frame, more: dict[str, Any] | None = None) -> Scope:
        return Scope({**self._context(frame), **(more or {})}, self._variables(frame), self._budget)

    def _variables(self, frame: Frame) -> dict[str, Any]:
        error = frame.error
        caught = None
        if error is not None:
            caught = {"type": error.type, "message": error.message, "state": error.state}
        return {"xid": self._xid, "error": caught}

    def _round_variables(self, frame: Frame, task: Task, index: int) -> dict[str, Any]:
        if task.loop is None:
            return {}
        elements = self._elements(frame, task.loop)
        return {task.loop.element: elements[index], task.loop.index: index, **_counts(frame)}

    def _body(self, template: Template, scope: Scope) -> bytes:
        return values.encode(fill(template, scope), GREATEST_PAYLOAD_BYTES)

    def _undoing(self, frame: Frame, task: Task) -> Compensation | None:
        state = self._definition(frame).states.get(task.compensation)
        assert state is None or isinstance(state, Compensation), "a definition is checked for it"
        return state

    def _compensation(self, undoing: Compensation | None, scope: Scope) -> bytes:
        """Return the body of a compensation; empty: that of what it undoes."""
        if undoing is None or undoing.input is None:
            return b""
        try:
            return values.encode(fill_leniently(undoing.input, scope), GREATEST_PAYLOAD_BYTES)
        except UnusableValueError:
            return b"null"

    def _compensation_of(self, frame: Frame, task: ServiceTask, index: int) -> bytes:
        """Return the same of a round, by the variables and what the round gave out so far."""
        undoing = self._undoing(frame, task)
        if undoing is None or undoing.input is None:
            return b""
        try:
            more = self._round_variables(frame, task, index)
        except EvaluationError:
            more = {}
        if task.loop is not None and frame.outputs[index]:
            more |= values.decode(frame.outputs[index])
        if frame.overlay:
            overlay = values.decode(frame.overlay)
            more |= overlay if isinstance(overlay, dict) else {}
        return self._compensation(undoing, self._scope(frame, more))

    def _compute_compensation(self, frame: Frame, task: ServiceTask, instance: Instance) -> None:
        """Compute it again, now that it can refer to what the call gave out."""
        compensation = self._compensation_of(frame, task, instance.index)
        branch = self._transaction.branch(instance.branch_id)
        assert branch is not None, "a call is a branch"
        if compensation != branch.compensation:
            self._transaction.change_branch(branch, compensation=compensation)


def _size(run: Run) -> int:
    """Return how many bytes the variables of all machines at work have."""
    return sum(
        len(frame.context) + len(frame.overlay) + sum(map(len, frame.outputs))
        for frame in run.frames
    )


def _counts(frame: Frame) -> dict[str, Any]:
    return {
        "nrOfInstances": frame.count,
        "nrOfActiveInstances": len(frame.active),
        "nrOfCompletedInstances": frame.ended,
    }


def _reason(kind: str, message: str) -> str:
    return f"{kind}: {message}" if message else kind
