"""How nodes are reached: over TLS or not, and as whom.

A token is shown to nobody but nodes, and never in clear text to another machine unless that is
asked for. What represents it in logs and tracebacks is `***`.
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from typing import Final

from yarl import URL

_TOKEN: Final = re.compile(r"[!-~]{1,8192}")


class Secret(str):
    """A text that does not show itself: it is itself only where it is written out on purpose."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class Access:
    """What a client shows of itself, and whom it believes."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        """Take one of `ssl_context` and `ca_file`, or neither for what the machine trusts.

        Raises:
            ValueError: both are given, or the token is none.
            OSError: the file cannot be read, or holds no certificates.
        """
        if ssl_context is not None and ca_file is not None:
            raise ValueError("give ssl_context or ca_file, not both")
        if ca_file is not None:
            ssl_context = ssl.create_default_context(cafile=os.fspath(ca_file))
        if token is not None and _TOKEN.fullmatch(token) is None:
            raise ValueError("token must be 1 to 8192 visible ASCII characters")
        self.ssl_context = ssl_context
        self._headers: Mapping[str, str] = (
            {} if token is None else {"Authorization": Secret(f"Bearer {token}")}
        )
        self._insecure = insecure

    @property
    def scheme(self) -> str:
        """The scheme of addresses that name none."""
        return "http" if self.ssl_context is None else "https"

    def headers(self) -> Mapping[str, str]:
        """Return what goes along with every request."""
        return self._headers

    def refusal(self, url: URL) -> str | None:
        """Return why no request may go to a node, None when it may."""
        if url.scheme == "https":
            return None
        if self.ssl_context is not None:
            return f"{url} is not https, and certificates to check were given"
        if self._headers and not self._insecure and not _is_here(url):
            return (
                f"{url} would send the token in clear text to another machine; use https, or say "
                "insecure=True on a network that nobody else can read"
            )
        return None


def _is_here(url: URL) -> bool:
    """Tell whether an address is of this machine itself."""
    host = url.host or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
