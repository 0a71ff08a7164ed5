"""What travels between services: the names of headers, and how their values are written and read.

A clock is the base64url text, without padding, of its bytes (`tidelock.clocks.wire.encode`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from tidelock.clocks import ClockError, LamportClock, VectorClock, WireFormatError, wire
from tidelock.errors import TidelockError
from tidelock.participant_clocks import ClockReading
from tidelock.transaction.context import checked

XID: Final = "X-Tx-Xid"
"""The xid of the transaction within which a request is made."""

XID_ALIASES: Final = ("TX_XID",)
"""Also read. It is not sent: nginx and gunicorn drop headers with an underscore."""

LAMPORT: Final = "Tidelock-Lamport"
VECTOR: Final = "Tidelock-Vector-Clock"

SENT: Final = (XID, LAMPORT, VECTOR)
"""All that is ever attached."""

NAMED: Final = (XID, *XID_ALIASES, LAMPORT, VECTOR)
"""All that is taken off a request that leaves for a host that is not listed."""

GREATEST_CLOCK_TEXT: Final = 6_000
"""Characters of a clock in a header; servers take 8 KiB of headers in all."""

Find = Callable[[str], Iterable[str]]
"""Returns the values of a header, by its name in any case."""

C = TypeVar("C", LamportClock, VectorClock)


class RefusedRequestError(TidelockError):
    """A request brings something that cannot be meant; it is refused with 400.

    Working on without it would be worse: the work would silently be no part of the transaction.
    """

    def __init__(self, code: str, title: str, detail: str) -> None:
        super().__init__(detail)
        self.code: Final = code
        self.title: Final = title
        self.detail: Final = detail

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers of the answer."""
        return [
            ("Content-Type", "application/problem+json"),
            ("Content-Length", str(len(self.body))),
        ]

    @property
    def body(self) -> bytes:
        """The answer: a problem as of RFC 9457, with the cluster's own kind of `type`."""
        name = self.code.lower().replace("_", "-")
        problem = {
            "type": f"urn:problem-type:tidelock:{name}",
            "title": self.title,
            "status": 400,
            "code": self.code,
            "detail": self.detail,
        }
        return json.dumps(problem).encode()


def read_xid(find: Find) -> str | None:
    """Return the xid that a request brings, if it brings one.

    Raises:
        RefusedRequestError: what it brings is none, or it brings two.
    """
    given = {
        value.strip()
        for name in (XID, *XID_ALIASES)
        for line in find(name)
        for value in line.split(",")
    } - {""}
    if len(given) > 1:
        shown = ", ".join(repr(value[:80]) for value in sorted(given)[:2])
        raise RefusedRequestError(
            "XID_AMBIGUOUS",
            "The request names two transactions",
            f"{XID} and its aliases name {shown}; a request belongs to one transaction",
        )
    for value in given:
        try:
            return checked(value)
        except ValueError as error:
            raise RefusedRequestError(
                "XID_MALFORMED", "The xid of the request is none", f"{XID}: {error}"
            ) from None
    return None


def read_clocks(find: Find) -> ClockReading:
    """Return the clocks that a request or an answer brings.

    Raises:
        WireFormatError: a header holds no such clock.
    """
    return ClockReading(
        _read_clock(find, LAMPORT, LamportClock), _read_clock(find, VECTOR, VectorClock)
    )


def _read_clock(find: Find, name: str, kind: type[C]) -> C | None:
    texts = [value for value in find(name) if value]
    if not texts:
        return None
    (text, *others) = texts
    if others or len(text) > GREATEST_CLOCK_TEXT:
        raise WireFormatError(f"{name}: one clock of {GREATEST_CLOCK_TEXT} characters at most")
    try:
        return wire.decode(_from_base64(text), kind)
    except ClockError as error:
        raise WireFormatError(f"{name}: {error}") from error


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise WireFormatError("it is no base64url text") from None


def clock_text(clock: LamportClock | VectorClock) -> str | None:
    """Return a clock as the value of a header, None when it is too large for one."""
    try:
        text = base64.urlsafe_b64encode(wire.encode(clock)).rstrip(b"=").decode()
    except ClockError:  # too large even for the wire
        return None
    return text if len(text) <= GREATEST_CLOCK_TEXT else None
