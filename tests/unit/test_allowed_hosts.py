"""Which hosts are told of transactions."""

from __future__ import annotations

import pytest

from tidelock.allowed_hosts import AllowedHosts

HOSTS = AllowedHosts(
    [
        "orders.internal",
        "Stock.Internal.:8080",
        "*.shop.internal",
        "*.pay.internal:443",
        "10.0.0.7",
        "[::1]:8080",
        "fd00::7",
    ]
)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("orders.internal", 80),
        ("ORDERS.internal.", 9_999),
        ("stock.internal", 8080),
        ("a.shop.internal", 1),
        ("a.b.shop.internal", 1),
        ("card.pay.internal", 443),
        ("10.0.0.7", 80),
        ("::1", 8080),
        ("[::1]", 8080),
        ("0:0:0:0:0:0:0:1", 8080),
        ("fd00:0::7", 1),
    ],
)
def test_a_listed_host_is_told(host: str, port: int) -> None:
    assert HOSTS.includes(host, port)


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("", 80),
        ("internal", 80),
        ("evil.orders.internal", 80),
        ("orders.internal.evil.example", 80),
        ("stock.internal", 80),
        ("stock.internal", None),
        ("shop.internal", 1),
        ("evilshop.internal", 1),
        ("card.pay.internal", 80),
        ("10.0.0.70", 80),
        ("::1", 80),
    ],
)
def test_another_host_is_not_told(host: str, port: int | None) -> None:
    assert not HOSTS.includes(host, port)


def test_nobody_is_listed_by_default() -> None:
    assert not AllowedHosts().includes("localhost", 80)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "http://a",
        "a/b",
        "a b",
        "a:0",
        "a:65536",
        "a:b",
        "a.*",
        "ä",
        "[a]",
        "a@b",
        "a,b",
    ],
)
def test_what_is_no_host_is_refused_with_what_would_be(entry: str) -> None:
    with pytest.raises(ValueError, match="write a name in ASCII"):
        AllowedHosts([entry])


def test_a_text_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(ValueError, match="a list of hosts"):
        AllowedHosts("orders")
