"""Endpoints as data: what the router serves is what the OpenAPI document describes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from api.cluster import Consistency
from api.shapes import Cursor, PageLimit

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""Returns a `Reply`, or an `EventStream` when it streams."""

KEYLESS_WRITE_ERRORS: Final = (
    "OUTCOME_UNKNOWN",
    "NO_QUORUM",
    "REQUEST_EXPIRED",
    "OVERLOADED",
    "SESSION_WINDOW_EXCEEDED",
    "INVALID_FIELD",
    "INVALID_COMMAND",
    "REQUEST_TOO_LARGE",
    "STORAGE_FULL",
    "VERSION_NOT_ACTIVE",
)
"""What any request can be answered that proposes something under no key."""

WRITE_ERRORS: Final = (
    *KEYLESS_WRITE_ERRORS,
    "IDEMPOTENCY_TABLE_FULL",
    "IDEMPOTENCY_KEY_REUSED",
)
"""What any request can be answered that proposes something."""

READ_ERRORS: Final = ("NO_QUORUM", "INVALID_FIELD", "STATE_DAMAGED")
"""What any request can be answered that reads the state."""

MEMBERSHIP_ERRORS: Final = (
    "NO_QUORUM",
    "NO_LEADER",
    "OUTCOME_UNKNOWN",
    "OVERLOADED",
    "NOT_READY",
    "TIMED_OUT",
    "NOT_A_MEMBER",
    "CHANGE_IN_PROGRESS",
    "MEMBERSHIP_REFUSED",
)
"""What any request can be answered that changes who belongs to the cluster, or who leads it."""

BODY_ERRORS: Final = (
    "MALFORMED_JSON",
    "DUPLICATE_KEY",
    "NOT_JSON",
    "REQUEST_TOO_LARGE",
    "BODY_TIMEOUT",
    "INVALID_FIELD",
)
"""What any request can be answered that has a body."""

COMMON_ERRORS: Final = (
    "INVALID_FIELD",
    "MALFORMED_REQUEST",
    "EXPECTATION_FAILED",
    "HEAD_TOO_LARGE",
    "INTERNAL_ERROR",
)
"""What any request can be answered: what is not HTTP or asks for what no path takes, and our own
failures.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter of the query, or of the path when the path names it."""

    name: str
    type: Any
    """A type that msgspec can describe."""
    description: str
    example: Any = None
    """A value that could be real, when its name does not lead to one."""


CONSISTENCY: Final = Parameter(
    name="consistency",
    type=Consistency,
    description="`linearizable` unless given; `local` reads what the node has applied.",
)

PAGE: Final = (
    Parameter(name="limit", type=PageLimit, description="At most so many items; 100 unless given."),
    Parameter(name="cursor", type=Cursor, description="`nextCursor` of the page before."),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One method of one path."""

    method: str
    path: str
    """With its variables in braces; also the label of its metrics."""
    aliases: tuple[str, ...] = ()
    """Further paths at which the same is served; the document names them in words only."""
    operation: str
    """The operation's name for generated clients, unique."""
    summary: str
    tag: str
    handler: Handler
    answer: Any
    """The type of a successful answer, or None when it is not JSON."""
    described: tuple[type[msgspec.Struct], ...] = ()
    """Further types that the schema of the answer refers to."""
    status: int = 200
    other_statuses: tuple[int, ...] = ()
    """Further ones of the same answer."""
    body: Any = None
    """The type of the body, or None when it takes none."""
    body_required: bool = True
    example: Any = None
    """A body that could be real, when one that is put together of its fields makes no sense."""
    parameters: tuple[Parameter, ...] = ()
    """Variables of the path and parameters of the query."""
    errors: tuple[str, ...] = ()
    """Codes of the problems that it can answer, besides those of its kind."""
    writes: bool = False
    """It takes `Idempotency-Key`, and a repetition answers `Idempotency-Replayed`."""
    keyed: bool = False
    """It takes `Idempotency-Key`, but doing it twice is harmless by its nature."""
    ignores_key: bool = False
    """It looks at no `Idempotency-Key`: who asks again is to get a new answer."""
    timed: bool = False
    """It takes `Tidelock-Timeout-Ms`."""
    media_type: str = "application/json"
    text_media_type: str | None = None
    """Of a text that it answers with instead, when the query says so."""
    streams: bool = False
    """Its answer goes on until the client leaves, so that nothing may wait for its end."""

    def query_parameters(self) -> frozenset[str]:
        return frozenset(
            parameter.name for parameter in self.parameters if not self.in_path(parameter)
        )

    def in_path(self, parameter: Parameter) -> bool:
        return f"{{{parameter.name}}}" in self.path
