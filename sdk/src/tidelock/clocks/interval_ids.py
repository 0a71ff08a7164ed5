"""Identities of interval tree clocks: which part of the line from 0 to 1 a stamp owns.

An identity is a tree: 1 owns the whole line, 0 owns nothing, and (left, right) owns in either half
what the subtree says. It is in normal form when no node is (0, 0) or (1, 1). The functions are
those of section 5.2 of the paper (see `tidelock.clocks.interval_tree`); they take normal forms and
give normal forms.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from tidelock.clocks.errors import ClockOverflowError, ClockValueError, shown

IdTree: TypeAlias = "int | tuple[IdTree, IdTree]"
"""0, 1, or the identities of both halves."""

GREATEST_DEPTH: Final = 256
"""How often the line can be halved. Functions recurse once for each level."""


def normal(identity: object, depth: int = 0) -> IdTree:
    """Return the normal form of what claims to be an identity.

    Raises:
        ClockValueError: it is none, or deeper than `GREATEST_DEPTH`.
    """
    if type(identity) is int and identity in (0, 1):
        return identity
    if depth < GREATEST_DEPTH and type(identity) is tuple and len(identity) == 2:
        left, right = identity
        return _node(normal(left, depth + 1), normal(right, depth + 1))
    raise ClockValueError(
        f"an identity is 0, 1 or a pair of identities, at most {GREATEST_DEPTH} deep, "
        f"got {shown(identity)} at depth {depth}"
    )


def split(identity: IdTree, depth: int = 0) -> tuple[IdTree, IdTree]:
    """Return two identities that own nothing in common and together what `identity` owns.

    Raises:
        ClockOverflowError: the line would be halved more than `GREATEST_DEPTH` times.
    """
    if isinstance(identity, int):
        if identity == 0:
            return 0, 0
        if depth >= GREATEST_DEPTH:
            raise ClockOverflowError(
                f"an identity that is {GREATEST_DEPTH} halvings deep cannot be forked; fork "
                "another one, or join identities that are no longer used"
            )
        return (1, 0), (0, 1)
    left, right = identity
    if left == 0:
        first, second = split(right, depth + 1)
        return (0, first), (0, second)
    if right == 0:
        first, second = split(left, depth + 1)
        return (first, 0), (second, 0)
    return (left, 0), (0, right)


def add(first: IdTree, second: IdTree) -> IdTree:
    """Return the identity that owns what either owns.

    Raises:
        ClockValueError: both own a part of the line in common.
    """
    if first == 0:
        return second
    if second == 0:
        return first
    if isinstance(first, int) or isinstance(second, int):
        raise ClockValueError(
            "both stamps own the same part of the line: one is a copy, or an older state, of what "
            "the other comes from. Each stamp must be used once; send messages with peek()"
        )
    return _node(add(first[0], second[0]), add(first[1], second[1]))


def _node(left: IdTree, right: IdTree) -> IdTree:
    if isinstance(left, int) and left == right:
        return left
    return left, right
