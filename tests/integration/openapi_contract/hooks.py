"""What Schemathesis cannot know by itself; it loads this module by `SCHEMATHESIS_HOOKS`."""

from __future__ import annotations

import json
import re
from itertools import count
from secrets import token_hex
from typing import Any, Final

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.openapi.checks import RejectedPositiveData

MEMBERS: Final = ("n1", "n2", "n3")

KEY: Final = "Idempotency-Key"

EXCUSED_CODES: Final = {
    "UPGRADE_REQUIRED": "a request that asks for no WebSocket gets none",
    "CLOCK_SKEW_TOO_LARGE": "what is too far ahead depends on the cluster's time",
}
"""Codes that refuse a request which the document allows, each with the reason why it must be so."""

EXCUSED_MESSAGES: Final = {
    "must be at most 128 bytes of UTF-8": "a schema counts characters, keys count bytes",
    "is a number beyond 64 bits; send it as a string": "a schema of any JSON cannot bound numbers",
    "names more than 10000 rows with those before it; send them apart": "lists share a bound",
    "must be at most 256 bytes of UTF-8": "characters and bytes again",
}
"""The same for messages about one field."""

EXCUSED_PATTERNS: Final = {
    r"Expected `(?:.*\| )?int(?: \|.*)?`, got `float`": "to a schema 5.0 is an integer",
    r"leads back to itself: .*|is the name of no step|is the name of \w+\[\d+\], too": "what names "
    "stand for in a graph",
    r"\$ref .*|has \d+ references, .*": "references stand in any JSON",
    r"would roll back what is to recover FORWARD.*|a saga has steps, or a definition and its input"
    "|stands beside definition, .*": "what fields mean together",
    r"must be ServiceTask, .*|a name has 1 to .*|names .*, and there is no such state|is another "
    "name than .*|is not known here|is not supported: .*|has no meaning .*": "what a definition "
    "means is more than its shape",
    r"is none of COMPLEX_ORDER, .*": "which business there is depends on what is installed",
}
"""The same for messages that differ from case to case."""

EXCUSED_FIELDS: Final = {
    "sessionId": "only a channel is given one, and what needs one depends on another field",
    "steps": "a topic counts as all the subscribers that it may have",
    "locks": "rows stand in one of two fields, or in both",
    **dict.fromkeys(
        (
            "commit",
            "rollback",
            "action",
            "compensation",
            "try",
            "confirm",
            "cancel",
            "query",
            "url",
        ),
        "whom the cluster may call is the operator's to say",
    ),
}
"""The same for all that is wrong with a field, by its last name."""

GREATEST_WAIT_MS: Final = 50
"""How long a request is let wait for a lock: what it is told afterwards does not depend on it."""

_RUN: Final = token_hex(4)
_SEEN: Final = count(1)


def is_excused(problem: Any) -> bool:
    """Whether a refusal follows from what no schema can say."""
    errors = problem.get("errors", [])
    return (
        problem["code"] in EXCUSED_CODES
        or any(error["message"] in EXCUSED_MESSAGES for error in errors)
        or any(
            re.fullmatch(pattern, error["message"], re.DOTALL)
            for error in errors
            for pattern in EXCUSED_PATTERNS
        )
        or any(error["path"].rpartition(".")[2] in EXCUSED_FIELDS for error in errors)
        # What business takes is more than that it is an object.
        or any("businessData" in error["path"] for error in errors)
        # A cursor is whatever its list makes of it; that it is hexadecimal is all that others know.
        or [error["path"] for error in errors] == ["cursor"]
    )


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]
) -> None:
    """Give each request a key of its own, and let none wait for long.

    Under a key that was used, a request is refused unseen.
    """
    key = case.headers.get(KEY)
    if isinstance(key, str) and re.fullmatch("[!-~]{1,200}", key):
        case.headers[KEY] = f"{key}-{_RUN}-{next(_SEEN)}"[-200:]
    body = case.body
    wait_ms = body.get("waitMs") if isinstance(body, dict) else None
    if isinstance(body, dict) and isinstance(wait_ms, int):
        body["waitMs"] = min(wait_ms, GREATEST_WAIT_MS)


@schemathesis.hook
def filter_failure(
    context: schemathesis.HookContext,
    failure: Failure,
    case: schemathesis.Case[Any],
    response: schemathesis.Response,
) -> bool:
    """Keep a failure, unless valid data was refused and that is excused."""
    if not isinstance(failure, RejectedPositiveData):
        return True
    return not is_excused(json.loads(response.content))


@schemathesis.hook
def filter_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> bool:
    """Leave out what no answer can be wrong about, and what would end the cluster under test."""
    # HTTP wants headers to be ignored that nobody described.
    if any("unknown-property" in name for name in case.headers or ()):
        return False
    removes = case.operation.definition.raw["operationId"] == "removeMember"
    return not (removes and (case.path_parameters or {}).get("nodeId") in MEMBERS)
