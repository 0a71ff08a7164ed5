"""Where clients may have the cluster call: judged when a URL is submitted, and again at each call.

A URL that a client submits is called by the leader, from where the leader stands. So it must not
lead to what only the leader can reach, least of all to the cluster itself.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from api.errors import refuse_field

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")

_OWN_HEADERS: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "trailers",
        "transfer-encoding",
        "upgrade",
        "via",
        "forwarded",
    }
)
_OWN_PREFIXES: Final = ("tidelock-", "x-tx-", "proxy-", "x-forwarded-", "tx_xid", "tx-xid")


class Destinations(Protocol):
    """The rules of one node."""

    def objection(self, url: str) -> str | None:
        """Return why the cluster will not call this URL, to follow its name; None when it may.

        No name is looked up: what it stands for is judged at each call.
        """


class AnyDestination:
    """No rules at all, for tests that call nobody."""

    def objection(self, url: str) -> str | None:
        return None if url.startswith(("http://", "https://")) else "is not an http or https URL"


def check_destination(destinations: Destinations, path: str, url: str) -> str:
    """Return the URL that stands at `path` of a request.

    Raises:
        Problem: 422, naming the field and why the URL will not be called.
    """
    objection = destinations.objection(url)
    if objection is not None:
        refuse_field(path, objection)
    return url


def header_objection(name: str, value: str) -> str | None:
    """Return why a client cannot have this header sent, to follow its name; None when it can.

    What tells a participant who calls it and for what is said by the cluster alone, and so is what
    belongs to the connection.
    """
    if _HEADER_NAME.fullmatch(name) is None:
        return "is not the name of a header"
    lower = name.lower()
    if lower in _OWN_HEADERS or lower.startswith(_OWN_PREFIXES):
        return "is a header that only the cluster sets"
    if _HEADER_VALUE.fullmatch(value) is None:
        return "has a value of control characters, or of more than 4096 characters"
    return None
