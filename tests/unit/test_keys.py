"""The layout of the state: whose row is which."""

from __future__ import annotations

from itertools import permutations

from statemachine import keys

PREFIXES = {name: value for name, value in vars(keys).items() if isinstance(value, bytes)}


def test_no_prefix_begins_another() -> None:
    """Rows of two kinds under one prefix would be read as each other's."""
    shared = [
        (one, other)
        for one, other in permutations(PREFIXES, 2)
        if PREFIXES[other].startswith(PREFIXES[one])
    ]
    assert len(PREFIXES) > 40
    assert shared == []


def test_the_nodes_own_rows_stay_apart() -> None:
    assert all(prefix[0] != 0 for prefix in PREFIXES.values())
