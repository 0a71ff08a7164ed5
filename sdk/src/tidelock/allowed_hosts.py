"""The hosts that an application tells of its transactions: those that are listed, and no others.

An xid lets its holder register branches and end the transaction, so it goes to one's own services
only. Nobody is listed unless the application says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final

_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_ENTRY: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?")

_ANY_PORT: Final = None


class AllowedHosts:
    """A list of hosts.

    An entry is a name (`orders.internal`), all names below one (`*.internal`, not `internal`
    itself), or an address (`10.0.0.7`, `[::1]`), each with a port when only that port is meant
    (`orders.internal:8080`). Case and a final dot do not matter. Names are compared as they are
    written: nothing is resolved.

    Raises:
        ValueError: an entry is none of these; it is shown with what it may be.
    """

    def __init__(self, entries: Iterable[str] = ()) -> None:
        if isinstance(entries, str):
            raise ValueError(f"a list of hosts is needed, not the text {entries!r}")
        self.entries: Final = tuple(entries)
        self._exact: set[tuple[str, int | None]] = set()
        self._below: list[tuple[str, int | None]] = []
        for entry in self.entries:
            self._allow(entry)

    def __repr__(self) -> str:
        return f"AllowedHosts({list(self.entries)!r})"

    def includes(self, host: str, port: int | None) -> bool:
        """Return whether a host is listed, at a port. Without a port, as one that is any port's."""
        name = _normal(host)
        for one in (port, _ANY_PORT):
            if (name, one) in self._exact:
                return True
        return any(name.endswith(end) and one in (port, _ANY_PORT) for end, one in self._below)

    def _allow(self, entry: str) -> None:
        text = entry.strip().lower()
        address = _address(text)
        if address is not None:  # an IPv6 address without brackets has no port
            self._exact.add((address, _ANY_PORT))
            return
        matched = _ENTRY.fullmatch(text)
        if matched is not None:
            bracketed, plain, digits = matched.groups()
            port = None if digits is None else int(digits)
            host = _address(bracketed) if plain is None else _normal(plain)
            if host is not None and (port is None or 0 < port <= 65_535):
                if _NAME.fullmatch(host) or _address(host) is not None:
                    self._exact.add((host, port))
                    return
                if host.startswith("*.") and _NAME.fullmatch(host[2:]):
                    self._below.append((host[1:], port))
                    return
        raise ValueError(
            f'{entry!r} is no host to tell of transactions: write a name in ASCII, "*.name" for '
            'all below it, or an address, each with ":port" when only that port is meant'
        )


def _normal(host: str) -> str:
    name = host.strip("[]").lower().removesuffix(".")
    return _address(name) or name


def _address(text: str) -> str | None:
    """Return an address in its one form, None when the text is none."""
    try:
        return str(ip_address(text))
    except ValueError:
        return None
