"""Transactions for sessions of requests.

::

    session = carry(requests.Session(), hosts=["orders.internal:8080"])

Each request that a redirect leads to is judged by its own host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from tidelock.application import Application
from tidelock.participant_clocks import ParticipantClocks
from tidelock.propagation.carrier import Carrier
from tidelock.propagation.headers import NAMED

try:
    from requests import PreparedRequest, Response, Session
    from requests.adapters import BaseAdapter
    from urllib3.util import parse_url
except ImportError as missing:  # pragma: no cover
    raise ImportError(f'{missing}; it comes with: pip install "tidelock[requests]"') from missing

_PORTS: Final = {"http": 80, "https": 443}


def carry(
    session: Session,
    *,
    application: Application | None = None,
    hosts: Iterable[str] | None = None,
    clocks: ParticipantClocks | None = None,
) -> Session:
    """Have a session attach the bound transaction to its requests. Returns the session.

    `hosts` are those that are told, as in `AllowedHosts`. They are the application's unless given,
    and so are the clocks. Adapters that are mounted stay and are used; mount others before this.

    Raises:
        ValueError: a host is none.
    """
    carrier = Carrier(application, hosts=hosts, clocks=clocks)
    for prefix, adapter in list(session.adapters.items()):
        session.mount(prefix, _CarryingAdapter(adapter, carrier))
    return session


class _CarryingAdapter(BaseAdapter):
    """Sends through another adapter. Redirects come through here as well."""

    def __init__(self, inner: BaseAdapter, carrier: Carrier) -> None:
        super().__init__()
        self._inner = inner
        self._carrier = carrier

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: float | tuple[float, float] | tuple[float, None] | None = None,
        verify: bool | str = True,
        cert: bytes | str | tuple[bytes | str, bytes | str] | None = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        for name in NAMED:
            request.headers.pop(name, None)
        place = _place(request.url or "")
        if place is not None:
            request.headers.update(self._carrier.leave(*place))
        response = self._inner.send(request, stream, timeout, verify, cert, proxies)
        self._carrier.hear(
            lambda name: [response.headers[name]] if name in response.headers else []
        )
        return response

    def close(self) -> None:
        self._inner.close()


def _place(url: str) -> tuple[str, int | None] | None:
    """Return where a URL leads, if both parsers on the way there agree about it."""
    try:
        split, parsed = urlsplit(url), parse_url(url)
        host, port = split.hostname, split.port
    except ValueError:
        return None
    if not host or (parsed.host or "").strip("[]").lower() != host or parsed.port != port:
        return None
    return host, port or _PORTS.get(split.scheme)
