"""Expressions of the state language: the part of Spring's that definitions use.

    [order].items[0].price * 2 >= 100 and not [vip]
    #root.status == 'OK'
    [loopResult].?[#this[paid] == null].size() == 0

A text becomes a tree once and is evaluated without Python's own `eval`. Both are bounded: a text
in length and nesting, an evaluation in steps and in the size of what it makes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, assert_never

from statemachine.transactions.state_language import values
from statemachine.transactions.state_language.values import UnusableValueError

GREATEST_LENGTH: Final = 1_000
GREATEST_NESTING: Final = 24
"""Parentheses and brackets within each other."""
GREATEST_HEIGHT: Final = 48
"""Operators within each other, those in a row included."""
GREATEST_STEPS: Final = 50_000
"""Of all expressions that are evaluated together."""
GREATEST_TEXT: Final = 64 << 10
"""Characters of a text that an expression puts together."""


class ExpressionSyntaxError(ValueError):
    """The text is no expression; the message says where and why."""


class EvaluationError(ValueError):
    """There is no such value."""


class Budget:
    """How much more may be evaluated."""

    def __init__(self, steps: int = GREATEST_STEPS) -> None:
        self._steps = steps

    def spend(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise EvaluationError(f"evaluating it takes more than {GREATEST_STEPS} steps")


@dataclass(frozen=True, slots=True)
class Scope:
    """What names stand for."""

    root: Any
    variables: Mapping[str, Any] = field(default_factory=dict)
    """By their names without `#`."""
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True, slots=True)
class Literal:
    value: Any


@dataclass(frozen=True, slots=True)
class Variable:
    """`#root`, `#this`, `#xid`, …"""

    name: str


@dataclass(frozen=True, slots=True)
class Index:
    target: Node
    key: Node
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    target: Node
    name: str
    arguments: tuple[Node, ...]
    safe: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """`.?[condition]`: the elements for which it holds."""

    target: Node
    condition: Node


@dataclass(frozen=True, slots=True)
class Unary:
    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    operator: str
    left: Node
    right: Node


Node = Literal | Variable | Index | Method | Selection | Unary | Binary

VARIABLES: Final = frozenset({"root", "this", "xid", "error"})
"""Those that an expression may name."""

METHODS: Final = {"size": 0, "length": 0, "isEmpty": 0, "contains": 1}
"""With the number of their arguments."""

_WORDS: Final = {
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "div": "/", "mod": "%",
    "and": "and", "or": "or", "not": "!", "&&": "and", "||": "or",
}  # fmt: skip
_CONSTANTS: Final[dict[str, Any]] = {"true": True, "false": False, "null": None}
_ADDED: Final = ("+", "-")
_MULTIPLIED: Final = ("*", "/", "%")
_COMPARED: Final = ("==", "!=", "<=", ">=", "<", ">")

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<number>[0-9]+(?:\.[0-9]+)?)
      | (?P<text>'(?:[^']|'')*'|"[^"]*")
      | (?P<variable>\#[A-Za-z_][A-Za-z0-9_]*)
      | (?P<name>[^\W0-9]\w*)
      | (?P<operator>==|!=|<=|>=|&&|\|\||\?\.|\.\?\[|[-+*/%<>!()\[\].,])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(text: str) -> Node:
    """Return the tree of an expression, which may begin with `$.`.

    Raises:
        ExpressionSyntaxError
    """
    if len(text) > GREATEST_LENGTH:
        raise ExpressionSyntaxError(
            f"has {len(text)} characters, an expression has at most {GREATEST_LENGTH}"
        )
    node = _Parser(_tokens(text)).whole()
    level = [node]
    for _ in range(GREATEST_HEIGHT):
        level = [child for each in level for child in _children(each)]
        if not level:
            return node
    raise ExpressionSyntaxError(f"has more than {GREATEST_HEIGHT} operators within each other")


def _children(node: Node) -> Sequence[Node]:
    match node:
        case Literal() | Variable():
            return ()
        case Index(target, key):
            return target, key
        case Method(target, _, arguments):
            return target, *arguments
        case Selection(target, condition):
            return target, condition
        case Unary(_, operand):
            return (operand,)
        case Binary(_, left, right):
            return left, right
        case _:
            assert_never(node)


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 2 if text.startswith("$.") else 0
    end = len(text.rstrip())
    while at < end:
        matched = _TOKEN.match(text, at)
        if matched is None:
            raise ExpressionSyntaxError(f"cannot be read at {text[at : at + 10].strip()!r}")
        kind = matched.lastgroup
        assert kind is not None, "every alternative has a name"
        tokens.append(_Token(kind, matched[kind], matched.start(kind)))
        at = matched.end()
    tokens.append(_Token("end", "", end))
    return tokens


class _Parser:
    """Recursive descent, one method for each rank of operators."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Node:
        node = self._any()
        if self._token.kind != "end":
            raise self._unexpected()
        return node

    @property
    def _token(self) -> _Token:
        return self._tokens[self._at]

    @property
    def _operator(self) -> str:
        """What stands here when it is an operator, in its usual spelling; else nothing."""
        token = self._token
        if token.kind == "operator":
            return _WORDS.get(token.text, token.text)
        return _WORDS.get(token.text.lower(), "") if token.kind == "name" else ""

    def _unexpected(self) -> ExpressionSyntaxError:
        token = self._token
        what = "ends too early" if token.kind == "end" else f"has {token.text!r} where it"
        where = "" if token.kind == "end" else f" cannot be, at character {token.at + 1}"
        return ExpressionSyntaxError(what + where)

    def _expect(self, operator: str) -> None:
        if self._operator != operator:
            raise self._unexpected()
        self._at += 1

    def _any(self) -> Node:
        self._depth += 1
        if self._depth > GREATEST_NESTING:
            raise ExpressionSyntaxError(f"is nested more than {GREATEST_NESTING} levels deep")
        node = self._row(("or",), lambda: self._row(("and",), self._comparison))
        self._depth -= 1
        return node

    def _row(self, operators: tuple[str, ...], operand: Callable[[], Node]) -> Node:
        node = operand()
        while (operator := self._operator) in operators and operator:
            self._at += 1
            node = Binary(operator, node, operand())
        return node

    def _comparison(self) -> Node:
        node = self._sum()
        operator = self._operator
        if operator in _COMPARED:
            self._at += 1
            return Binary(operator, node, self._sum())
        return node

    def _sum(self) -> Node:
        return self._row(_ADDED, lambda: self._row(_MULTIPLIED, self._unary))

    def _unary(self) -> Node:
        operator = self._operator
        if operator not in ("!", "-"):
            return self._path()
        self._at += 1
        self._depth += 1
        if self._depth > GREATEST_NESTING:
            raise ExpressionSyntaxError(f"is nested more than {GREATEST_NESTING} levels deep")
        # As in other languages, `not` of a comparison needs parentheses.
        node = Unary(operator, self._unary())
        self._depth -= 1
        return node

    def _path(self) -> Node:
        node = self._primary()
        while True:
            operator = self._token.text if self._token.kind == "operator" else ""
            if operator not in ("[", ".", "?.", ".?["):
                return node
            self._at += 1
            node = self._step(node, operator)

    def _step(self, node: Node, operator: str) -> Node:
        if operator == "[":
            return Index(node, self._key())
        if operator == ".?[":
            condition = self._any()
            self._expect("]")
            return Selection(node, condition)
        if self._token.text == "[":
            self._at += 1
            return Index(node, self._key(), operator == "?.")
        return self._member(node, operator == "?.")

    def _member(self, node: Node, safe: bool) -> Node:
        token = self._token
        if token.kind != "name":
            raise self._unexpected()
        self._at += 1
        if self._token.text != "(":
            return Index(node, Literal(token.text), safe)
        if token.text not in METHODS:
            known = ", ".join(METHODS)
            raise ExpressionSyntaxError(f"calls {token.text}(), which is none of {known}")
        self._at += 1
        arguments = [self._any() for _ in range(METHODS[token.text])]
        self._expect(")")
        return Method(node, token.text, tuple(arguments), safe)

    def _key(self) -> Node:
        """Return what stands in brackets: a bare name is itself, all else is evaluated."""
        token, following = self._token, self._tokens[min(self._at + 1, len(self._tokens) - 1)]
        if token.kind == "name" and following.text == "]":
            self._at += 2
            return Literal(token.text)
        node = self._any()
        self._expect("]")
        return node

    def _primary(self) -> Node:
        token = self._token
        self._at += 1
        match token.kind:
            case "number":
                return _literal(token.text)
            case "text":
                quote = token.text[0]
                return Literal(token.text[1:-1].replace(quote * 2, quote))
            case "variable" if token.text[1:] in VARIABLES:
                return Variable(token.text[1:])
            case "variable":
                known = ", ".join(f"#{name}" for name in sorted(VARIABLES))
                raise ExpressionSyntaxError(f"names {token.text}, which is none of {known}")
            case "name" if token.text.lower() in _CONSTANTS:
                return Literal(_CONSTANTS[token.text.lower()])
            case "name" if token.text.lower() not in _WORDS:
                return Index(Variable("this"), Literal(token.text))
            case "operator" if token.text == "[":
                return Index(Variable("this"), self._key())
            case "operator" if token.text == "(":
                node = self._any()
                self._expect(")")
                return node
        self._at -= 1
        raise self._unexpected()


def _literal(number: str) -> Literal:
    """Read a number as JSON does, which knows no leading zeros."""
    whole, point, fraction = number.partition(".")
    text = (whole.lstrip("0") or "0") + point + fraction
    try:
        return Literal(values.decode(text.encode()))
    except UnusableValueError as error:
        raise ExpressionSyntaxError(str(error)) from None


def evaluate(node: Node, scope: Scope) -> Any:
    """Return the value of an expression. Raises: EvaluationError"""
    try:
        return _value(node, scope, scope.root)
    except UnusableValueError as error:
        raise EvaluationError(str(error)) from None


def holds(node: Node, scope: Scope) -> bool:
    """Return whether a condition is true. Raises: EvaluationError"""
    return _boolean(evaluate(node, scope))


def _value(node: Node, scope: Scope, this: Any) -> Any:
    scope.budget.spend()
    match node:
        case Literal(value):
            return value
        case Variable("root"):
            return scope.root
        case Variable("this"):
            return this
        case Variable(name):
            return scope.variables.get(name)
        case Index() | Method():
            found = _value(node.target, scope, this)
            return None if found is None and node.safe else _reached(node, found, scope, this)
        case Selection(target, condition):
            return _selected(_value(target, scope, this), condition, scope)
        case Unary("!", operand):
            return not _boolean(_value(operand, scope, this))
        case Unary(_, operand):
            return _arithmetic("-", 0, _value(operand, scope, this))
        case Binary():
            return _binary(node, scope, this)
        case _:
            assert_never(node)


def _reached(node: Index | Method, found: Any, scope: Scope, this: Any) -> Any:
    if isinstance(node, Index):
        return _element(found, _value(node.key, scope, this))
    return _call(scope, found, node.name, [_value(each, scope, this) for each in node.arguments])


def _binary(node: Binary, scope: Scope, this: Any) -> Any:
    operator = node.operator
    left = _value(node.left, scope, this)
    if operator == "and":
        return _boolean(left) and _boolean(_value(node.right, scope, this))
    if operator == "or":
        return _boolean(left) or _boolean(_value(node.right, scope, this))
    right = _value(node.right, scope, this)
    if operator in ("==", "!="):
        scope.budget.spend(_weight(left))
        return values.equal(left, right) is (operator == "==")
    if operator in _COMPARED:
        return _ordered(operator, left, right)
    return _arithmetic(operator, left, right)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise EvaluationError(f"{_shown(value)} stands where true or false must")


def _ordered(operator: str, left: Any, right: Any) -> bool:
    comparable = values.is_number(left) and values.is_number(right)
    if not comparable and not (isinstance(left, str) and isinstance(right, str)):
        raise EvaluationError(f"{_shown(left)} {operator} {_shown(right)} compares no two alike")
    match operator:
        case "<":
            return bool(left < right)
        case "<=":
            return bool(left <= right)
        case ">":
            return bool(left > right)
        case _:
            return bool(left >= right)


def _arithmetic(operator: str, left: Any, right: Any) -> Any:
    if values.is_number(left) and values.is_number(right):
        return values.calculate(operator, left, right)
    if operator == "+" and isinstance(left, str) and isinstance(right, str):
        if len(left) + len(right) > GREATEST_TEXT:
            raise EvaluationError(f"the text has more than {GREATEST_TEXT} characters")
        return left + right
    raise EvaluationError(f"{_shown(left)} {operator} {_shown(right)} cannot be calculated")


def _element(target: Any, key: Any) -> Any:
    """Return what is under a key; null in an object that has no such member."""
    if isinstance(target, dict):
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if isinstance(key, str):
            return target.get(key)
    elif isinstance(target, list) and type(key) is int:
        if 0 <= key < len(target):
            return target[key]
        raise EvaluationError(f"there is no element {key} among {len(target)}")
    raise EvaluationError(f"{_shown(target)} has nothing under {_shown(key)}")


def _call(scope: Scope, target: Any, name: str, arguments: Sequence[Any]) -> Any:
    if not isinstance(target, str | list | dict):
        raise EvaluationError(f"{_shown(target)} has no {name}()")
    if name == "isEmpty":
        return not target
    if name != "contains":
        return len(target)
    (wanted,) = arguments
    if isinstance(target, str):
        if not isinstance(wanted, str):
            raise EvaluationError(f"a text cannot contain {_shown(wanted)}")
        return wanted in target
    if isinstance(target, dict):
        return isinstance(wanted, str) and wanted in target
    scope.budget.spend(_weight(target))
    return any(values.equal(each, wanted) for each in target)


def _selected(target: Any, condition: Node, scope: Scope) -> Any:
    if not isinstance(target, list):
        raise EvaluationError(f"{_shown(target)} is no array to select from")
    return [each for each in target if _boolean(_value(condition, scope, each))]


def _weight(value: Any) -> int:
    """Return how many steps comparing a value counts for."""
    if isinstance(value, list):
        return 1 + sum(map(_weight, value))
    if isinstance(value, dict):
        return 1 + sum(map(_weight, value.values()))
    return 1


def _shown(value: Any) -> str:
    """Return a value as it may stand in a message."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
        case str():
            return repr(value[:40])
        case list():
            return "an array"
        case _:
            return "an object"
