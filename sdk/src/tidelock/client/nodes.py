"""Which nodes there are, and in what order to ask them."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from yarl import URL

from tidelock.client.access import Access

AVOIDED_S: Final = 2.0
"""How long a node that failed is asked last."""

GREATEST_NODES: Final = 64

_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?")


class Nodes:
    """The addresses that the application gave, and those that the cluster named."""

    def __init__(
        self,
        addresses: Sequence[str],
        now: Callable[[], float] = time.monotonic,
        *,
        access: Access | None = None,
    ) -> None:
        """Raises: ValueError: an address is none, or may not be asked, or there is none."""
        if isinstance(addresses, str) or not addresses:
            raise ValueError("addresses must be a list of at least one, as http://127.0.0.1:7101")
        self._access = Access() if access is None else access
        self._given = [*dict.fromkeys(map(self.parse, addresses))]
        self._named: list[URL] = []
        self._healthy: frozenset[URL] = frozenset(self._given)
        self._avoided: dict[URL, float] = {}
        self._leads: URL | None = None
        self._now = now

    def parse(self, address: str) -> URL:
        """Return the URL of a node.

        Raises: ValueError: the address is none, or may not be asked.
        """
        url = origin(address, self._access.scheme)
        refusal = self._access.refusal(url)
        if refusal is not None:
            raise ValueError(refusal)
        return url

    def follow(self, named: Iterable[tuple[str, bool]], leads: str | None = None) -> None:
        """Take the addresses `host:port` that the cluster names, each with whether it is healthy,
        and that of the node which leads.

        Those that the application gave stay, for the others may not be reachable from here. What is
        no address, or may not be asked, is passed over.
        """
        scheme = self._given[0].scheme
        found: dict[URL, bool] = {}
        for address, healthy in named:
            try:
                found[self.parse(f"{scheme}://{address}")] = healthy
            except ValueError:
                continue
        self._named = [*found][:GREATEST_NODES]
        leaders = [url for url in self._given if leads and str(url) == f"{scheme}://{leads}"]
        self._leads = leaders[0] if leaders else None
        known_ill = {url for url, healthy in found.items() if not healthy}
        self._healthy = frozenset({*self._given, *found} - known_ill)

    @property
    def leader(self) -> URL | None:
        """The node that leads, as far as is known, when the application gave its address."""
        return self._leads

    @property
    def troubled(self) -> bool:
        """Whether a node failed lately."""
        return bool(self._avoided)

    def in_order(self, *, spread: bool = False) -> list[URL]:
        """Return all nodes, best first: who did not fail lately, then who is healthy.

        With `spread` it is for a connection that stays: of those that are equally good the leader
        comes first, and the others in any order, so that not all processes are at the same one.
        """
        now = self._now()
        self._avoided = {url: ends for url, ends in self._avoided.items() if ends > now}
        known = [*dict.fromkeys([*self._given, *self._named])]
        if spread:
            random.shuffle(known)
            known.sort(key=lambda url: url != self._leads)
        return sorted(known, key=lambda url: (url in self._avoided, url not in self._healthy))

    def is_avoided(self, url: URL) -> bool:
        """Whether this node failed lately."""
        return self._avoided.get(url, 0.0) > self._now()

    def avoid(self, url: URL) -> None:
        """Ask this node last for a while."""
        self._avoided[url] = self._now() + AVOIDED_S

    def answered(self, url: URL) -> None:
        """Take note that the node serves."""
        self._avoided.pop(url, None)


def origin(address: str, scheme: str) -> URL:
    """Return the URL that an address, with or without its scheme, is. Raises: ValueError."""
    try:
        url = URL(address if "://" in address else f"{scheme}://{address}")
        is_host = _HOST.fullmatch(url.raw_host or "") is not None
        usable = url.scheme in ("http", "https") and is_host and url.port is not None
    except (ValueError, TypeError):
        usable = False
    if "@" in str(address):
        # Not repeated here: it has a password in it.
        raise ValueError("an address of a node names a user; give token= instead")
    if not usable:
        raise ValueError(f"{address!r} is no address of a node, as http://127.0.0.1:7101")
    if url.path not in ("", "/") or url.query_string or url.fragment:
        raise ValueError(f"{str(url)!r} goes on behind the port; an address ends there")
    return url.origin()
