"""Templates: JSON in which a text that begins with `$.` stands for the value of an expression.

`$$` at the beginning of a text is a single `$`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from statemachine.transactions.state_language.expressions import (
    EvaluationError,
    ExpressionSyntaxError,
    Node,
    Scope,
    evaluate,
    parse,
)

MARK: Final = "$."


@dataclass(frozen=True, slots=True)
class Computed:
    """Stands in a template for the value of an expression."""

    expression: Node


@dataclass(frozen=True, slots=True)
class Template:
    tree: Any
    """JSON with `Computed` in it."""


def compile_template(tree: Any, path: str, report: Callable[[str, str], None]) -> Template:
    """Return a template. What is wrong with its expressions is reported with its path."""
    return Template(_compiled(tree, path, report))


def _compiled(tree: Any, path: str, report: Callable[[str, str], None]) -> Any:
    if isinstance(tree, dict):
        return {name: _compiled(each, f"{path}.{name}", report) for name, each in tree.items()}
    if isinstance(tree, list):
        return [_compiled(each, f"{path}[{at}]", report) for at, each in enumerate(tree)]
    if not isinstance(tree, str) or not tree.startswith("$"):
        return tree
    if tree.startswith("$$"):
        return tree[1:]
    if not tree.startswith(MARK):
        report(path, "begins with $ and is no expression `$.…`; write $$ for a $ of its own")
        return None
    try:
        return Computed(parse(tree))
    except ExpressionSyntaxError as error:
        report(path, str(error))
        return None


def fill(template: Template, scope: Scope) -> Any:
    """Return the value of a template. Raises: EvaluationError"""
    return _filled(template.tree, scope, lenient=False)


def fill_leniently(template: Template, scope: Scope) -> Any:
    """The same, but what cannot be evaluated is null: for what must be called in any case."""
    return _filled(template.tree, scope, lenient=True)


def _filled(tree: Any, scope: Scope, *, lenient: bool) -> Any:
    if isinstance(tree, Computed):
        try:
            return evaluate(tree.expression, scope)
        except EvaluationError:
            if lenient:
                return None
            raise
    if isinstance(tree, dict):
        return {name: _filled(each, scope, lenient=lenient) for name, each in tree.items()}
    if isinstance(tree, list):
        return [_filled(each, scope, lenient=lenient) for each in tree]
    return tree
