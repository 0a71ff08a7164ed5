"""An operation as a line of curl that does what it says when it is pasted into a shell."""

from __future__ import annotations

import json
from shlex import quote
from typing import Any, Final
from urllib.parse import quote as percent_encoded
from urllib.parse import urlencode

Json = dict[str, Any]

ORIGIN: Final = "http://127.0.0.1:7101"
"""The first node of a cluster on this machine. The page puts its own origin in its place."""

GREATEST_LINE: Final = 60
"""Characters of a body that stands in one line."""

_NOT_SHOWN: Final = frozenset({"consistency", "cursor", "Tidelock-Timeout-Ms"})
"""Parameters that are seldom given."""


def command(method: str, path: str, operation: Json) -> str:
    """Return the command, in several lines, with the examples of the document as values."""
    shown = [
        parameter
        for parameter in operation.get("parameters", ())
        if parameter["name"] not in _NOT_SHOWN and "example" in parameter
    ]
    query = {part["name"]: _text(part["example"]) for part in shown if part["in"] == "query"}
    for part in shown:
        if part["in"] == "path":
            value = percent_encoded(_text(part["example"]), safe="")
            path = path.replace(f"{{{part['name']}}}", value)
    url = quote(f"{ORIGIN}{path}{f'?{urlencode(query)}' if query else ''}")
    first = f"curl -X {method} {url}" if method != "GET" else f"curl {url}"
    if operation.get("x-streams"):
        first = first.replace("curl ", "curl -N ", 1)
    lines = [first]
    for part in shown:
        if part["in"] == "header":
            header = f"{part['name']}: {_text(part['example'])}"
            lines.append(f"-H {quote(header)}")
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body is not None:
        lines.append("-H 'Content-Type: application/json'")
        lines.append(f"-d {quote(in_lines(body['example']))}")
    return " \\\n  ".join(lines)


def in_lines(value: Any) -> str:
    """Return JSON, in one line when it is short."""
    short = json.dumps(value, ensure_ascii=False)
    if len(short) <= GREATEST_LINE:
        return short
    return json.dumps(value, ensure_ascii=False, indent=2)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
