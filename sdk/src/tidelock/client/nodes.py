"""Which nodes there are, and in what order to ask them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from yarl import URL

AVOIDED_S: Final = 2.0
"""How long a node that failed is asked last."""

GREATEST_NODES: Final = 64


class Nodes:
    """The addresses that the application gave, and those that the cluster named."""

    def __init__(self, addresses: Sequence[str], now: Callable[[], float] = time.monotonic) -> None:
        """Raises: ValueError: an address is none, or there is none."""
        if isinstance(addresses, str) or not addresses:
            raise ValueError("addresses must be a list of at least one, as http://127.0.0.1:7101")
        self._given = [*dict.fromkeys(map(_origin, addresses))]
        self._named: list[URL] = []
        self._healthy: frozenset[URL] = frozenset(self._given)
        self._avoided: dict[URL, float] = {}
        self._now = now

    def follow(self, named: Iterable[tuple[str, bool]]) -> None:
        """Take the addresses `host:port` that the cluster names, each with whether it is healthy.

        Those that the application gave stay, for the others may not be reachable from here.
        """
        scheme = self._given[0].scheme
        found = {_origin(f"{scheme}://{address}"): healthy for address, healthy in named}
        self._named = [*found][:GREATEST_NODES]
        known_ill = {url for url, healthy in found.items() if not healthy}
        self._healthy = frozenset({*self._given, *found} - known_ill)

    def in_order(self) -> list[URL]:
        """Return all nodes, best first: who did not fail lately, then who is healthy."""
        now = self._now()
        self._avoided = {url: ends for url, ends in self._avoided.items() if ends > now}
        known = dict.fromkeys([*self._given, *self._named])
        return sorted(known, key=lambda url: (url in self._avoided, url not in self._healthy))

    def avoid(self, url: URL) -> None:
        """Ask this node last for a while."""
        self._avoided[url] = self._now() + AVOIDED_S

    def answered(self, url: URL) -> None:
        """Take note that the node serves."""
        self._avoided.pop(url, None)


def _origin(address: str) -> URL:
    url = URL(address if "://" in address else f"http://{address}")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{address!r} is no address of a node, as http://127.0.0.1:7101")
    return url.origin()
