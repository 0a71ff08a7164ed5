"""From a definition's JSON to its states, with everything that is wrong with it said at once."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from statemachine.transactions.state_language import values
from statemachine.transactions.state_language.expressions import (
    ExpressionSyntaxError,
    Literal,
    Node,
    parse,
)
from statemachine.transactions.state_language.fields import Fault, Faults, Fields
from statemachine.transactions.state_language.graph import check_graph
from statemachine.transactions.state_language.model import (
    CatchRule,
    Choice,
    Compensation,
    CompensationTrigger,
    Definition,
    Fail,
    Loop,
    RetryPolicy,
    ServiceTask,
    State,
    StatusRule,
    SubStateMachine,
    Succeed,
)
from statemachine.transactions.state_language.templates import Template, compile_template
from statemachine.transactions.state_language.values import UnusableValueError

GREATEST_DOCUMENT_BYTES: Final = 256 << 10
GREATEST_STATES: Final = 500
GREATEST_NAME: Final = 64
GREATEST_RULES: Final = 20
GREATEST_URL: Final = 2_048
GREATEST_COMMENT: Final = 1_000
GREATEST_MS: Final = 600_000
GREATEST_SAGA_MS: Final = 366 * 24 * 3_600_000
GREATEST_INTERVAL_MS: Final = 3_600_000
GREATEST_PARALLEL: Final = 100

_NAME: Final = re.compile(r"[^\x00-\x1f\x7f/\[\]]{1,64}")
_EXCEPTION: Final = re.compile(r"\$Exception\{([^{}]{1,200})\}")
_STATUSES: Final = {"SU": "SU", "FA": "FA", "UN": "UN"}

_NO_OPERATION: Final = ("IsPersist", "IsRetryPersistModeUpdate", "IsCompensatePersistModeUpdate")
"""How Seata keeps its log; everything is replicated here, whatever they say."""

_UNSUPPORTED: Final = {
    "IsAsync": "is not supported: the cluster waits for every answer. Use a message for what "
    "needs none",
    "ParameterTypes": "has no meaning for HTTP, where Input is the body in JSON",
}


class InvalidDefinitionError(ValueError):
    """What is wrong with a definition, all of it."""

    def __init__(self, faults: list[Fault]) -> None:
        first = faults[0]
        super().__init__(f"{first.path}: {first.message}" if first.path else first.message)
        self.faults = faults


@lru_cache(maxsize=64)
def read_definition(document: bytes) -> Definition:
    """Return what a definition says. The same bytes are read once.

    Raises:
        InvalidDefinitionError
    """
    if len(document) > GREATEST_DOCUMENT_BYTES:
        message = f"has {len(document)} bytes, at most {GREATEST_DOCUMENT_BYTES} may be"
        raise InvalidDefinitionError([Fault("", message)])
    try:
        tree = values.decode(document)
    except UnusableValueError as error:
        raise InvalidDefinitionError([Fault("", str(error))]) from None
    faults = Faults()
    definition = _Reader(faults).read(tree)
    if not faults.found:
        check_graph(definition, faults)
    if faults.found:
        raise InvalidDefinitionError(faults.found)
    return definition


class _Reader:
    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def read(self, tree: Any) -> Definition:
        fields = Fields(tree, "", self._faults)
        for name in ("Name", "Version"):
            fields.text(name, greatest=128)
        fields.text("Comment", greatest=GREATEST_COMMENT)
        self._ignore(fields)
        start = fields.text("StartState", greatest=GREATEST_NAME, required=True)
        timeout_ms = fields.integer("TimeoutMs", default=0, least=1, greatest=GREATEST_SAGA_MS)
        forward = fields.choice(
            "RecoverStrategy", {"Compensate": False, "Forward": True}, default=False
        )
        states = self._states(fields)
        fields.end(_UNSUPPORTED)
        return Definition(start, states, timeout_ms, forward)

    def _ignore(self, fields: Fields) -> None:
        for name in _NO_OPERATION:
            fields.flag(name, default=True)

    def _states(self, fields: Fields) -> dict[str, State]:
        found = fields.take("States")
        if not isinstance(found, dict) or not 0 < len(found) <= GREATEST_STATES:
            fields.report("States", f"must be an object of 1 to {GREATEST_STATES} states")
            return {}
        undoing = {
            each["CompensateState"]
            for each in found.values()
            if isinstance(each, dict) and isinstance(each.get("CompensateState"), str)
        }
        states: dict[str, State] = {}
        for name, value in found.items():
            path = f"States.{name[:GREATEST_NAME]}"
            if _NAME.fullmatch(name) is None:
                self._faults.report(
                    path, f"a name has 1 to {GREATEST_NAME} characters without / [ ] and controls"
                )
                continue
            state = self._state(name, Fields(value, path, self._faults), name in undoing)
            if state is not None:
                states[name] = state
        return states

    def _state(self, name: str, fields: Fields, undoes: bool) -> State | None:
        kind = fields.text("Type", greatest=100)
        fields.text("Comment", greatest=GREATEST_COMMENT)
        state: State | None
        match kind:
            case "ServiceTask" if undoes:
                state = self._compensation(name, fields)
            case "ServiceTask":
                state = self._service_task(name, fields)
            case "CompensateSubMachine":
                self._ignore(fields)
                state = Compensation(name, "", self._input(fields))
            case "SubStateMachine":
                state = self._sub_state_machine(name, fields)
            case "Choice":
                state = self._choice(name, fields)
            case "Succeed":
                state = Succeed(name)
            case "Fail":
                state = Fail(
                    name,
                    fields.text("ErrorCode", default="FAILED", greatest=100),
                    fields.text("Message", greatest=GREATEST_COMMENT),
                )
            case "CompensationTrigger":
                state = CompensationTrigger(name, fields.text("Next", greatest=GREATEST_NAME))
            case _:
                fields.report(
                    "Type",
                    "must be ServiceTask, Choice, SubStateMachine, CompensateSubMachine, "
                    "CompensationTrigger, Succeed or Fail",
                )
                return None
        fields.end(
            {**_UNSUPPORTED, **dict.fromkeys(_FORWARD_ONLY, _MEANINGLESS)}
            if isinstance(state, Compensation)
            else _UNSUPPORTED
        )
        return state

    # --- tasks

    def _service_task(self, name: str, fields: Fields) -> ServiceTask:
        self._ignore(fields)
        self._flag_async(fields)
        compensation = fields.text("CompensateState", greatest=GREATEST_NAME)
        return ServiceTask(
            name=name,
            url=self._url(fields),
            input=self._input(fields),
            output=self._output(fields),
            status=self._status(fields),
            retries=self._retries(fields),
            catches=self._catches(fields),
            loop=self._loop(fields),
            compensation=compensation,
            changes_data=fields.flag("IsForUpdate", default=bool(compensation)),
            timeout_ms=fields.integer("TimeoutMs", default=0, least=1, greatest=GREATEST_MS),
            next=fields.text("Next", greatest=GREATEST_NAME),
        )

    def _flag_async(self, fields: Fields) -> None:
        if fields.flag("IsAsync", default=False):
            fields.report("IsAsync", _UNSUPPORTED["IsAsync"])

    def _compensation(self, name: str, fields: Fields) -> Compensation:
        self._ignore(fields)
        self._flag_async(fields)
        fields.flag("IsForUpdate", default=True)
        return Compensation(name, self._url(fields), self._input(fields))

    def _sub_state_machine(self, name: str, fields: Fields) -> SubStateMachine:
        self._ignore(fields)
        return SubStateMachine(
            name=name,
            machine=fields.text("StateMachineName", greatest=128, required=True),
            input=self._input(fields),
            output=self._output(fields),
            catches=self._catches(fields),
            loop=self._loop(fields),
            compensation=fields.text("CompensateState", greatest=GREATEST_NAME),
            next=fields.text("Next", greatest=GREATEST_NAME),
        )

    def _url(self, fields: Fields) -> str:
        """Return where a service is called: `ServiceUrl`, or `ServiceName`/`ServiceMethod`."""
        fields.choice("ServiceType", {"http": None, "rest": None}, default=None)
        fields.choice("HttpMethod", {"POST": None}, default=None)
        if fields.has("ServiceUrl"):
            for name in ("ServiceName", "ServiceMethod"):
                if fields.has(name):
                    fields.report(name, "stands beside ServiceUrl, which says it already")
                fields.take(name)
            return fields.text("ServiceUrl", greatest=GREATEST_URL, required=True)
        if not fields.has("ServiceName"):
            fields.report("ServiceUrl", "is required: where the service is called")
            fields.take("ServiceMethod")
            return ""
        base = fields.text("ServiceName", greatest=GREATEST_URL, required=True)
        method = fields.text("ServiceMethod", greatest=GREATEST_URL)
        if not base.startswith(("http://", "https://")):
            fields.report("ServiceName", "must be the URL under which its methods are")
            return ""
        return f"{base.rstrip('/')}/{method}" if method else base

    def _input(self, fields: Fields) -> Template | None:
        """Return the body; an array of one is that one, as a method's only parameter."""
        value = fields.take("Input")
        if value is None:
            return None
        path = fields.at("Input")
        if isinstance(value, list) and len(value) == 1:
            return compile_template(value[0], f"{path}[0]", self._faults.report)
        if not isinstance(value, list | dict):
            fields.report("Input", "must be an array of parameters or an object")
            return None
        return compile_template(value, path, self._faults.report)

    def _output(self, fields: Fields) -> tuple[tuple[str, Template], ...]:
        value = fields.take("Output")
        if value is None:
            return ()
        inner = Fields(value, fields.at("Output"), self._faults)
        if not isinstance(value, dict):
            return ()
        found: list[tuple[str, Template]] = []
        for name, tree in value.items():
            path = inner.at(name)
            if not 0 < len(name) <= GREATEST_NAME:
                self._faults.report(path, f"a name has 1 to {GREATEST_NAME} characters")
            found.append((name, compile_template(tree, path, self._faults.report)))
        return tuple(found)

    # --- rules

    def _status(self, fields: Fields) -> tuple[StatusRule, ...]:
        value = fields.take("Status")
        if value is None:
            return ()
        inner = Fields(value, fields.at("Status"), self._faults)
        found: list[StatusRule] = []
        for condition in value if isinstance(value, dict) else ():
            status = inner.choice(condition, _STATUSES, default="UN")
            failure = _EXCEPTION.fullmatch(condition)
            if failure is not None:
                found.append(StatusRule(None, (failure[1],), status))
            else:
                found.append(
                    StatusRule(self._expression(condition, inner.at(condition)), (), status)
                )
        return tuple(found)

    def _retries(self, fields: Fields) -> tuple[RetryPolicy, ...]:
        found: list[RetryPolicy] = []
        for at, value in enumerate(fields.list("Retry", greatest=GREATEST_RULES)):
            rule = Fields(value, f"{fields.at('Retry')}[{at}]", self._faults)
            found.append(
                RetryPolicy(
                    failures=self._failures(rule, required=False),
                    interval_ms=rule.thousandths(
                        "IntervalSeconds", default=1_000, least=0, greatest=GREATEST_INTERVAL_MS
                    ),
                    greatest_attempts=rule.integer(
                        "MaxAttempts", default=None, least=0, greatest=1_000_000
                    ),
                    backoff_permille=rule.thousandths(
                        "BackoffRate", default=1_000, least=0, greatest=100_000
                    ),
                )
            )
            rule.end({})
        return tuple(found)

    def _catches(self, fields: Fields) -> tuple[CatchRule, ...]:
        found: list[CatchRule] = []
        for at, value in enumerate(fields.list("Catch", greatest=GREATEST_RULES)):
            rule = Fields(value, f"{fields.at('Catch')}[{at}]", self._faults)
            failures = self._failures(rule, required=True)
            found.append(
                CatchRule(failures, rule.text("Next", greatest=GREATEST_NAME, required=True))
            )
            rule.end({})
        return tuple(found)

    def _failures(self, rule: Fields, *, required: bool) -> tuple[str, ...]:
        names = rule.list("Exceptions", greatest=GREATEST_RULES, required=required)
        for at, name in enumerate(names):
            if not isinstance(name, str) or not 0 < len(name) <= 200:
                rule.report(f"Exceptions[{at}]", "must be a text of 1 to 200 characters")
        return tuple(name for name in names if isinstance(name, str))

    def _loop(self, fields: Fields) -> Loop | None:
        if not fields.has("Loop"):
            fields.take("Loop")
            return None
        loop = Fields(fields.take("Loop"), fields.at("Loop"), self._faults)
        completion = loop.text("CompletionCondition", greatest=10_000)
        found = Loop(
            collection=self._expression(
                loop.text("Collection", greatest=10_000, required=True), loop.at("Collection")
            ),
            parallel=loop.integer("Parallel", default=1, least=1, greatest=GREATEST_PARALLEL),
            element=loop.text("ElementVariableName", default="loopElement", greatest=GREATEST_NAME),
            index=loop.text("ElementIndexName", default="loopCounter", greatest=GREATEST_NAME),
            completion=self._expression(completion, loop.at("CompletionCondition"))
            if completion
            else None,
        )
        loop.end({})
        return found

    def _choice(self, name: str, fields: Fields) -> Choice:
        choices: list[tuple[Node, str]] = []
        found = fields.list("Choices", greatest=100, required=True)
        for at, value in enumerate(found):
            row = Fields(value, f"{fields.at('Choices')}[{at}]", self._faults)
            text = row.text("Expression", greatest=10_000, required=True)
            following = row.text("Next", greatest=GREATEST_NAME, required=True)
            choices.append((self._expression(text, row.at("Expression")), following))
            row.end({})
        return Choice(name, tuple(choices), fields.text("Default", greatest=GREATEST_NAME))

    def _expression(self, text: str, path: str) -> Node:
        if text:
            try:
                return parse(text)
            except ExpressionSyntaxError as error:
                self._faults.report(path, str(error))
        return Literal(None)


_FORWARD_ONLY: Final = ("Next", "Retry", "Catch", "Loop", "Status", "Output", "CompensateState")
_MEANINGLESS: Final = (
    "has no meaning in a state that undoes another: it is repeated until its HTTP status says that "
    "it is done"
)
