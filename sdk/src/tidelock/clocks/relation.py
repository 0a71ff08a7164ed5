"""How two events, or two versions, stand to each other. Every clock that can tell concurrent from
ordered answers in these four words.
"""

from __future__ import annotations

from enum import StrEnum


class Relation(StrEnum):
    """The relation of a first value to a second one: "first is BEFORE second"."""

    BEFORE = "BEFORE"
    """Everything that the first knows the second knows too, and more."""
    AFTER = "AFTER"
    """The first knows everything that the second knows, and more."""
    EQUAL = "EQUAL"
    """Both know the same."""
    CONCURRENT = "CONCURRENT"
    """Each knows something that the other does not."""

    @property
    def inverse(self) -> Relation:
        """The relation of the second value to the first."""
        return _INVERSE.get(self, self)

    @classmethod
    def of(cls, first_has_more: bool, second_has_more: bool) -> Relation:
        """Return the relation of two values by what each knows that the other does not."""
        if first_has_more:
            return cls.CONCURRENT if second_has_more else cls.AFTER
        return cls.BEFORE if second_has_more else cls.EQUAL


_INVERSE = {Relation.BEFORE: Relation.AFTER, Relation.AFTER: Relation.BEFORE}
