"""Where a node may call: the hosts that the operator lists, and never the cluster itself.

A URL is judged twice. When it is submitted, by what is written in it; and at each connection, by
the address that its name led to in that moment, so that a name which means something else the
second time leads nowhere new.
"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from yarl import URL

HostPort = tuple[str, int]
"""A name or an address without brackets, and a port."""

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

GREATEST_URL_LENGTH: Final = 2_048

_GREATEST_KNOWN: Final = 1_000

_URL: Final = re.compile(r"(?i:https?)://([^/?#\\]+)(?:[/?#][!-\[\]-~]*)?")
"""Visible ASCII without backslashes, which some read as slashes."""
_AUTHORITY: Final = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(?::[0-9]{1,5})?")
_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A name whose last label is one is read as an IPv4 address by some, whatever it is."""

_REFUSED: Final[tuple[tuple[str, tuple[IpNetwork, ...]], ...]] = (
    (
        "an address that stands for no machine",
        (
            ip_network("0.0.0.0/8"),
            ip_network("::/128"),
            ip_network("240.0.0.0/4"),
            ip_network("100::/64"),
        ),
    ),
    (
        "a link-local address",
        (ip_network("169.254.0.0/16"), ip_network("fe80::/10"), ip_network("fec0::/10")),
    ),
    ("a multicast address", (ip_network("224.0.0.0/4"), ip_network("ff00::/8"))),
    (
        "an IPv6 address with an IPv4 address in it",
        (
            ip_network("::ffff:0:0/96"),
            ip_network("::ffff:0:0:0/96"),
            ip_network("64:ff9b::/96"),
            ip_network("64:ff9b:1::/48"),
            ip_network("2002::/16"),
            ip_network("2001::/32"),
        ),
    ),
    (
        "the metadata service of a cloud",
        (
            ip_network("fd00:ec2::254/128"),
            ip_network("100.100.100.200/32"),
            ip_network("168.63.129.16/32"),
            ip_network("192.0.0.192/32"),
        ),
    ),
)
_LOOPBACK: Final = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_COMPATIBLE: Final = IPv6Network("::/96")
"""IPv4 addresses in an old clothing, but also `::` and `::1`."""

IsLocal = Callable[[IpAddress], bool]


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be called, as far as its text tells."""

    host: str
    """A name in lower case without a final dot, or an address."""
    port: int
    url: URL


class Destinations:
    """`api.destinations.Destinations` of one node."""

    def __init__(
        self,
        allowed_hosts: Iterable[str],
        own: Iterable[HostPort],
        *,
        is_local: IsLocal | None = None,
    ) -> None:
        """`own` are the addresses at which the cluster itself is reached.

        Raises:
            ValueError: an entry of `allowed_hosts` is none; it is shown with what it may be.
        """
        self._any = False
        self._names: set[str] = set()
        self._suffixes: tuple[str, ...] = ()
        self._networks: tuple[IpNetwork, ...] = ()
        for entry in allowed_hosts:
            self._allow(entry.strip())
        self._listed = frozenset(own)
        self._own = self._listed
        self._is_local = is_local_address if is_local is None else is_local
        self._targets: dict[str, Target] = {}
        """What may be called, as it was judged: most calls go where others went."""

    def _allow(self, entry: str) -> None:
        name = entry.lower().removesuffix(".")
        if entry == "*":
            self._any = True
        elif (network := _network(entry)) is not None:
            self._networks += (network,)
        elif name.startswith("*.") and _is_name(name[2:]):
            self._suffixes += (name[1:],)
        elif _is_name(name):
            self._names.add(name)
        else:
            raise ValueError(
                f'"{entry}" is no host: write a name, "*.name" for all below it, an address, a '
                'network such as "10.0.0.0/8", or "*" for all but loopback'
            )

    def set_members(self, addresses: Iterable[HostPort]) -> None:
        """Take note of who belongs to the cluster now."""
        self._own = self._listed.union(addresses)
        self._targets.clear()

    # --- what is written

    def objection(self, url: str) -> str | None:
        found = self._judge(url)
        return found if isinstance(found, str) else None

    def target(self, url: str) -> Target:
        """Return where a URL leads. Raises: DestinationRefusedError"""
        known = self._targets.get(url)
        if known is not None:
            return known
        found = self._judge(url)
        if isinstance(found, str):
            raise DestinationRefusedError(f"the URL {found}")
        if len(self._targets) >= _GREATEST_KNOWN:
            self._targets.clear()
        self._targets[url] = found
        return found

    def _judge(self, url: str) -> Target | str:
        if len(url) > GREATEST_URL_LENGTH:
            return f"is longer than {GREATEST_URL_LENGTH} characters"
        matched = _URL.fullmatch(url)
        if matched is None:
            return "is not an http or https URL of visible ASCII characters"
        authority = matched[1]
        if "@" in authority or "%" in authority:
            return "has a user, a password or an escaped host in it"
        if _AUTHORITY.fullmatch(authority) is None:
            return "has no usable host or port"
        try:
            parsed = URL(url)
            host, port = parsed.raw_host or "", parsed.port
        except ValueError:
            return "is not a URL"
        if not port or port > 65_535:
            return "has no usable port"
        host = host.lower().removesuffix(".")
        ip = _ip(host)
        if ip is None and (not _is_name(host) or _NUMBER.fullmatch(host.rpartition(".")[2])):
            return "has a host that is neither a name nor an address in its usual form"
        why = self._unlisted(host, ip) or (None if ip is None else self._refused(ip, port))
        if why is None and self._names_own(host, port):
            why = "the cluster itself"
        return Target(host, port, parsed) if why is None else f"leads to {why}"

    def _names_own(self, host: str, port: int) -> bool:
        """Whether a name stands for the cluster itself, as far as that is known without asking.

        What other names stand for is judged when they are called: by then it may be another thing.
        """
        if any(_same(own, (host, port)) for own in self._own):
            return True
        return _is_loopback_name(host) and any(self._is_own(ip, port) for ip in _LOOPBACK)

    def _unlisted(self, host: str, ip: IpAddress | None) -> str | None:
        if ip is None:
            listed = self._any or host in self._names or host.endswith(self._suffixes)
        else:
            listed = self._any or self._in_networks(ip)
        return None if listed else f"{host}, which is not in delivery.allowed_hosts"

    # --- what a name led to

    def address_objection(self, host: str, port: int) -> str | None:
        """Return why a resolved address will not be connected to, as a noun; None when it may.

        `host` may have an IPv6 zone.
        """
        ip = _ip(host.partition("%")[0])
        if ip is None:
            return "something that is no address"
        return self._refused(ip, port)

    def _refused(self, ip: IpAddress, port: int) -> str | None:
        for what, networks in _REFUSED:
            if any(ip in network for network in networks):
                return what
        if ip in _COMPATIBLE and not ip.is_loopback:
            return "an IPv6 address with an IPv4 address in it"
        if ip.is_loopback and not self._reaches_loopback(ip):
            return "this machine itself, and delivery.allowed_hosts names no loopback address"
        if self._is_own(ip, port):
            return "the cluster itself"
        return None

    def _reaches_loopback(self, ip: IpAddress) -> bool:
        return "localhost" in self._names or self._in_networks(ip)

    def _in_networks(self, ip: IpAddress) -> bool:
        return any(ip in network for network in self._networks)

    def _is_own(self, ip: IpAddress, port: int) -> bool:
        """Whether a node of the cluster listens there, whichever way it is written."""
        hosts = [host for host, own_port in self._own if own_port == port]
        if not hosts:
            return False
        addresses = [_ip(host) for host in hosts]
        if ip in addresses:
            return True
        # A node on this machine may listen on all of its addresses, though it names one.
        listens_here = any(map(self._is_here, hosts, addresses))
        return listens_here and (ip.is_loopback or self._is_local(ip))

    def _is_here(self, host: str, ip: IpAddress | None) -> bool:
        if ip is None:
            return _is_loopback_name(host.lower().removesuffix("."))
        return ip.is_loopback or ip.is_unspecified or self._is_local(ip)

    def own_names(self, port: int) -> list[str]:
        """Return the names, not addresses, of those of the cluster's hosts that use a port."""
        return [host for host, own_port in self._own if own_port == port and _ip(host) is None]


class DestinationRefusedError(OSError):
    """A call would have gone where none may go; nothing was sent."""


def is_local_address(ip: IpAddress) -> bool:
    """Tell whether an address is this machine's: whether a socket can be bound to it."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except OSError as error:
        return error.errno == errno.EACCES
    return True


def _is_loopback_name(host: str) -> bool:
    """Whether a name stands for this machine whoever is asked: RFC 6761, section 6.3."""
    return host == "localhost" or host.endswith(".localhost")


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and "_" not in text[:1]


def _same(own: HostPort, other: HostPort) -> bool:
    return (own[0].lower().removesuffix("."), own[1]) == other


def _ip(text: str) -> IpAddress | None:
    """Read an address in its usual form: no octal, no hexadecimal, no parts left out, no zone."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> IpNetwork | None:
    try:
        return ip_network(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
