"""Network addresses as they stand in the configuration: `host:port`, IPv6 in brackets."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

GREATEST_PORT: Final = 65_535

_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*\.?\Z"
)
_ALL_DIGITS_AND_DOTS: Final = re.compile(r"[0-9.]+\Z")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    host: str
    """A name or an address, without brackets."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `host:port` or `[ipv6]:port`.

        Raises:
            ValueError: with what is wrong, ready to be shown.
        """
        host, colon, port = text.rpartition(":")
        if not colon:
            raise ValueError(f'"{text}" has no port')
        if not port.isascii() or not port.isdigit() or not 1 <= int(port[:6]) <= GREATEST_PORT:
            raise ValueError(f'the port in "{text}" is not a number from 1 to {GREATEST_PORT}')
        return cls(_parse_host(host, text), int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name is not looked up: only `localhost` is."""
        name = self.host.rstrip(".").lower()
        if name == "localhost" or name.endswith(".localhost"):
            return True
        ip = _reached(self.host)
        return ip is not None and ip.is_loopback

    @property
    def is_unspecified(self) -> bool:
        """Whether it means every interface (`0.0.0.0`, `::`): it can be bound but not dialled."""
        ip = _reached(self.host)
        return ip is not None and ip.is_unspecified


def _parse_host(host: str, text: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        if isinstance(_ip(inner), ipaddress.IPv6Address):
            return inner
        raise ValueError(f'what stands in brackets in "{text}" is not an IPv6 address')
    if ":" in host:
        raise ValueError(f'an IPv6 address needs brackets: "[{host}]:port"')
    if _ALL_DIGITS_AND_DOTS.match(host):
        if _ip(host) is None:
            raise ValueError(f'"{host}" is not an IPv4 address')
        return host
    if not _HOST_NAME.match(host):
        raise ValueError(f'the host in "{text}" is neither a name nor an address')
    return host


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _reached(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that traffic to `host` reaches: 127.0.0.1 for ::ffff:127.0.0.1."""
    ip = _ip(host)
    return (isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped) or ip
