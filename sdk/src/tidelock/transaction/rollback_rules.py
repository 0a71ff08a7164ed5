"""Which exceptions roll a transaction back."""

from __future__ import annotations

from collections.abc import Iterable

ExceptionType = type[Exception]


class RollbackRules:
    """Every exception rolls back, but for what the rules say otherwise; the most specific wins.

    The rule whose class is nearest in the exception's method resolution order decides. A group is
    judged by a rule that names it, else it rolls back when one of its exceptions does. What is no
    `Exception` (a cancelled task, `KeyboardInterrupt`, `SystemExit`) always rolls back.
    """

    def __init__(
        self,
        rollback_for: ExceptionType | Iterable[ExceptionType] = (),
        no_rollback_for: ExceptionType | Iterable[ExceptionType] = (),
    ) -> None:
        """Take the rules; a single class is as good as a list of one.

        Raises:
            TypeError: something is no class of exceptions.
            ValueError: a class is named on both sides.
        """
        self._rolls_back = {
            **dict.fromkeys(_classes("no_rollback_for", no_rollback_for), False),
            **dict.fromkeys(_classes("rollback_for", rollback_for), True),
        }
        both = set(_classes("", rollback_for)) & set(_classes("", no_rollback_for))
        if both:
            names = ", ".join(sorted(kind.__name__ for kind in both))
            raise ValueError(f"{names}: named in rollback_for and in no_rollback_for")

    def roll_back(self, error: BaseException) -> bool:
        """Tell whether the transaction is rolled back after this exception."""
        if not isinstance(error, Exception):
            return True
        for kind in type(error).__mro__:
            rule = self._rolls_back.get(kind)
            # A rule for Exception itself says nothing of what is in a group.
            if rule is not None and not (isinstance(error, ExceptionGroup) and kind is Exception):
                return rule
        if isinstance(error, ExceptionGroup):
            return any(self.roll_back(each) for each in error.exceptions)
        return True


def _classes(
    option: str, given: ExceptionType | Iterable[ExceptionType]
) -> tuple[ExceptionType, ...]:
    kinds = (given,) if isinstance(given, type) else tuple(given)
    for kind in kinds:
        if not _is_exception(kind):
            raise TypeError(f"{option}: {kind!r} is no class of exceptions")
    return kinds


def _is_exception(given: object) -> bool:
    return isinstance(given, type) and issubclass(given, Exception)
