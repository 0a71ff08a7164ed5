"""Where the cluster may be made to call: a table of what attackers of such callers have tried."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from api.destinations import header_objection
from node.delivery.destinations import (
    DestinationRefusedError,
    Destinations,
    IpAddress,
    is_local_address,
)

CLUSTER = [
    *(("127.0.0.1", 7100 + number) for number in (1, 2, 3)),
    *(("127.0.0.1", 7200 + number) for number in (1, 2, 3)),
]
HERE = (ip_address("10.0.0.1"), ip_address("fd00::1"))
"""Addresses of the machine that the tests pretend to be on."""


def is_here(ip: IpAddress) -> bool:
    return ip.is_loopback or ip in HERE


def destinations(*allowed: str, own: list[tuple[str, int]] = CLUSTER) -> Destinations:
    return Destinations(allowed, own, is_local=is_here)


DEVELOPMENT = ("localhost", "127.0.0.1", "::1")
EVERYTHING = ("*", "127.0.0.0/8", "::1", "localhost")

TAKEN = [
    (DEVELOPMENT, "http://127.0.0.1:9000/try"),
    (DEVELOPMENT, "http://localhost:9000/"),
    (DEVELOPMENT, "HTTP://LOCALHOST.:9000/a?b=c#d"),
    (DEVELOPMENT, "http://[::1]:9000"),
    (("shop.example",), "https://shop.example/pay?x=1%20"),
    (("Shop.Example.",), "https://SHOP.example./pay"),
    (("*.example",), "https://a.b.example/"),
    (("10.0.0.0/8",), "http://10.1.2.3:8080/"),
    (("[fd00::]/8".replace("[", "").replace("]", ""),), "http://[fd00::7]:8080/"),
    (("*",), "http://shop.example:7101/"),
    (("10.0.0.0/8",), "http://10.0.0.9:7101/"),
]

REFUSED = [
    # Not a URL that anybody should call.
    (EVERYTHING, "", "not an http"),
    (EVERYTHING, "ftp://127.0.0.1/x", "not an http"),
    (EVERYTHING, "file:///etc/passwd", "not an http"),
    (EVERYTHING, "gopher://127.0.0.1:9000/_x", "not an http"),
    (EVERYTHING, "//127.0.0.1/x", "not an http"),
    (EVERYTHING, "http:/127.0.0.1/x", "not an http"),
    (EVERYTHING, "http:///x", "not an http"),
    (EVERYTHING, " http://127.0.0.1:9000/", "not an http"),
    (EVERYTHING, "http://127.0.0.1:9000/\r\nHost: x", "not an http"),
    (EVERYTHING, "http://127.0.0.1:9000/a b", "not an http"),
    (EVERYTHING, "http://127.0.0.1:9000\\@shop.example/", "not an http"),
    (EVERYTHING, "http://shop.example\\.evil/", "not an http"),
    (EVERYTHING, "http://shop.example/ä", "not an http"),
    (EVERYTHING, "http://x/" + "a" * 2048, "longer than"),
    (EVERYTHING, "http://127.0.0.1:/x", "host or port"),
    (EVERYTHING, "http://127.0.0.1:70000/x", "not a URL"),
    (EVERYTHING, "http://127.0.0.1:0/x", "port"),
    (EVERYTHING, "http://127.0.0.1:8_0/x", "port"),
    # Somebody else's host before or behind the one that is called.
    (EVERYTHING, "http://user@shop.example/", "user"),
    (EVERYTHING, "http://user:password@shop.example/", "user"),
    (EVERYTHING, "http://shop.example:80@127.0.0.1:7101/", "user"),
    (EVERYTHING, "http://%31%32%37.0.0.1:7101/", "escaped"),
    (EVERYTHING, "http://127.0.0.1%2eshop.example/", "escaped"),
    (("shop.example",), "http://shop.example.evil/", "allowed_hosts"),
    (("shop.example",), "http://evilshop.example/", "allowed_hosts"),
    (("shop.example",), "http://a.shop.example/", "allowed_hosts"),
    (("*.shop.example",), "http://shop.example/", "allowed_hosts"),
    (("*.shop.example",), "http://ashop.example/", "allowed_hosts"),
    (("shop.example",), "http://1.2.3.4/", "allowed_hosts"),
    (DEVELOPMENT, "http://shop.example/", "allowed_hosts"),
    (DEVELOPMENT, "http://127.0.0.2:9000/", "allowed_hosts"),
    (("10.0.0.0/8",), "http://internal/", "allowed_hosts"),
    # Addresses in the forms that only some read as addresses.
    (EVERYTHING, "http://2130706433/", "usual form"),
    (EVERYTHING, "http://0x7f000001/", "usual form"),
    (EVERYTHING, "http://0177.0.0.1/", "usual form"),
    (EVERYTHING, "http://0x7f.0.0.1/", "usual form"),
    (EVERYTHING, "http://127.1/", "usual form"),
    (EVERYTHING, "http://127.0.0.1.5/", "usual form"),
    (EVERYTHING, "http://1.2.3.256/", "usual form"),
    (EVERYTHING, "http://shop.0x1/", "usual form"),
    (EVERYTHING, "http://a..b/", "usual form"),
    (EVERYTHING, "http://-a.example/", "usual form"),
    (EVERYTHING, "http://[fe80::1%eth0]/", "escaped"),
    (EVERYTHING, "http://[::ffff:127.0.0.1]:7101/", "IPv4 address in it"),
    (EVERYTHING, "http://[::ffff:7f00:1]:9000/", "IPv4 address in it"),
    (EVERYTHING, "http://[::127.0.0.1]:9000/", "IPv4 address in it"),
    (EVERYTHING, "http://[64:ff9b::7f00:1]/", "IPv4 address in it"),
    (EVERYTHING, "http://[2002:7f00:1::]/", "IPv4 address in it"),
    (EVERYTHING, "http://[2001::1]/", "IPv4 address in it"),
    # Addresses of nobody, of many, of the neighbourhood.
    (EVERYTHING, "http://0.0.0.0:9000/", "no machine"),
    (EVERYTHING, "http://0.1.2.3/", "no machine"),
    (EVERYTHING, "http://[::]:9000/", "no machine"),
    (EVERYTHING, "http://255.255.255.255/", "no machine"),
    (EVERYTHING, "http://169.254.169.254/latest/meta-data", "link-local"),
    (EVERYTHING, "http://[fe80::1]/", "link-local"),
    (EVERYTHING, "http://224.0.0.1/", "multicast"),
    (EVERYTHING, "http://[ff02::1]/", "multicast"),
    (EVERYTHING, "http://[fd00:ec2::254]/", "metadata"),
    (EVERYTHING, "http://100.100.100.200/", "metadata"),
    (("*",), "http://127.0.0.1:9000/", "this machine"),
    (("*",), "http://[::1]:9000/", "this machine"),
    # The cluster itself: its API and its peer port, by whatever way leads there.
    (EVERYTHING, "http://127.0.0.1:7101/api/v1/transactions", "cluster itself"),
    (EVERYTHING, "http://127.0.0.1:7203/", "cluster itself"),
    (EVERYTHING, "http://127.0.0.2:7101/", "cluster itself"),
    (EVERYTHING, "http://[::1]:7102/", "cluster itself"),
    (EVERYTHING, "http://10.0.0.1:7101/", "cluster itself"),
    (EVERYTHING, "http://[fd00::1]:7101/", "cluster itself"),
    (EVERYTHING, "http://localhost:7101/api/v1/transactions", "cluster itself"),
    (DEVELOPMENT, "http://LocalHost.:7202/", "cluster itself"),
    (EVERYTHING, "http://n1.localhost:7103/", "cluster itself"),
]


@pytest.mark.parametrize(("allowed", "url"), TAKEN)
def test_what_is_listed_may_be_called(allowed: tuple[str, ...], url: str) -> None:
    assert destinations(*allowed).objection(url) is None


@pytest.mark.parametrize(("allowed", "url", "why"), REFUSED)
def test_what_leads_elsewhere_is_refused(allowed: tuple[str, ...], url: str, why: str) -> None:
    objection = destinations(*allowed).objection(url)
    assert objection is not None
    assert why in objection


REBOUND = [
    ("127.0.0.1", 7101, "the cluster itself"),
    ("127.0.0.1", 80, None),
    ("::1", 7201, "the cluster itself"),
    ("::ffff:127.0.0.1", 80, "IPv4 address in it"),
    ("169.254.169.254", 80, "link-local"),
    ("fe80::1%2", 80, "link-local"),
    ("0.0.0.0", 80, "no machine"),
    ("10.0.0.1", 7101, "the cluster itself"),
    ("10.0.0.2", 7101, None),
    ("10.0.0.1", 80, None),
    ("not an address", 80, "no address"),
]


@pytest.mark.parametrize(("address", "port", "why"), REBOUND)
def test_what_a_name_led_to_is_judged_by_itself(address: str, port: int, why: str | None) -> None:
    objection = destinations(*EVERYTHING).address_objection(address, port)
    assert (objection is None) == (why is None)
    assert why is None or why in str(objection)


def test_a_name_does_not_lead_to_this_machine_unless_that_is_listed() -> None:
    assert destinations("shop.example").address_objection("127.0.0.1", 80) is not None
    assert destinations("shop.example").address_objection("::1", 80) is not None
    assert destinations("localhost").address_objection("127.0.0.1", 80) is None


def test_localhost_is_the_cluster_only_where_a_node_is_on_this_machine() -> None:
    elsewhere = destinations(*EVERYTHING, own=[("tc-1.internal", 7101), ("10.0.0.9", 7102)])
    assert elsewhere.objection("http://localhost:7102/") is None
    named = destinations(*EVERYTHING, own=[("localhost", 7101), ("0.0.0.0", 7102)])
    for url in ("http://127.0.0.1:7101/", "http://localhost:7102/", "http://[::1]:7101/"):
        assert "cluster itself" in str(named.objection(url))


def test_members_that_joined_later_are_not_called_either() -> None:
    found = destinations("*", own=[])
    url = "http://tc-4.internal:7101/api/v1/sagas"
    assert found.objection(url) is None
    found.set_members([("tc-4.internal", 7101), ("10.0.0.4", 7101)])
    assert "cluster itself" in str(found.objection(url))
    assert "cluster itself" in str(found.address_objection("10.0.0.4", 7101))
    assert found.own_names(7101) == ["tc-4.internal"]
    assert found.objection("http://tc-4.internal:80/") is None


def test_what_was_called_before_is_judged_again_once_the_members_have_changed() -> None:
    found = destinations("*", own=[])
    url = "http://tc-4.internal:7101/"
    assert found.target(url) is found.target(url)
    found.set_members([("tc-4.internal", 7101)])
    with pytest.raises(DestinationRefusedError, match="cluster itself"):
        found.target(url)


@pytest.mark.parametrize("entry", ["", "http://a", "a/b", "10.0.0.1/8", "*.", "a b", "*x"])
def test_an_entry_that_lists_nothing_is_an_error(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        Destinations([entry], [])


def test_an_address_is_local_when_a_socket_can_be_bound_to_it() -> None:
    assert is_local_address(ip_address("127.0.0.1"))
    assert not is_local_address(ip_address("192.0.2.1"))


@pytest.mark.parametrize(
    "name",
    ["Host", "authorization", "Content-Length", "Transfer-Encoding", "Connection", "TE", "Upgrade",
     "Tidelock-Epoch", "X-Tx-Xid", "x-tx-anything", "Proxy-Authorization", "Cookie", "TX_XID",
     "X-Forwarded-For", "Keep-Alive", "a b", "", "a:b", "x" * 129],
)  # fmt: skip
def test_a_client_cannot_set_the_headers_that_participants_trust(name: str) -> None:
    assert header_objection(name, "1") is not None


def test_a_client_can_set_other_headers_to_one_line() -> None:
    assert header_objection("X-Tenant", "a b") is None
    assert header_objection("X-Tenant", "a\r\nHost: b") is not None
    assert header_objection("X-Tenant", "a" * 4097) is not None
