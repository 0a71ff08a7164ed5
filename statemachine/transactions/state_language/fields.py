"""Reading a JSON object field by field, and noting everything that is wrong with it at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

GREATEST_FAULTS: Final = 100
"""How many are noted."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with a definition."""

    path: str
    """As `States.Pay.Retry[0].MaxAttempts`; empty: the whole."""
    message: str


class Faults:
    """All that is wrong."""

    def __init__(self) -> None:
        self.found: list[Fault] = []

    def report(self, path: str, message: str) -> None:
        if len(self.found) < GREATEST_FAULTS:
            self.found.append(Fault(path, message))


class Fields:
    """An object whose fields are taken one by one; `end` reports those that nobody took."""

    def __init__(self, value: Any, path: str, faults: Faults) -> None:
        self.path = path
        self._faults = faults
        self._values: Mapping[str, Any] = {}
        if isinstance(value, dict):
            self._values = value
        else:
            faults.report(path, "must be an object")
        self._taken: set[str] = set()

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def report(self, name: str, message: str) -> None:
        self._faults.report(self.at(name), message)

    def take(self, name: str) -> Any:
        """Return a field's value; None when it is absent or null."""
        self._taken.add(name)
        return self._values.get(name)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def text(self, name: str, *, default: str = "", greatest: int, required: bool = False) -> str:
        value = self.take(name)
        if value is None:
            if required:
                self.report(name, "is required")
            return default
        if not isinstance(value, str) or (required and not value):
            self.report(name, "must be a text that is not empty" if required else "must be a text")
            return default
        if len(value) > greatest:
            self.report(name, f"has {len(value)} characters, at most {greatest} may be")
            return default
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.report(name, "must be true or false")
            return default
        return value

    def integer(self, name: str, *, default: int | None, least: int, greatest: int) -> int:
        value = self.take(name)
        if value is None:
            if default is None:
                self.report(name, "is required")
            return least if default is None else default
        if type(value) is not int or not least <= value <= greatest:
            self.report(name, f"must be an integer from {least} to {greatest}")
            return least
        return value

    def thousandths(self, name: str, *, default: int, least: int, greatest: int) -> int:
        """Return a number, which may have a fraction, in thousandths; so are the bounds."""
        value = self.take(name)
        if value is None:
            return default
        if type(value) in (int, Decimal) and least <= value * 1_000 <= greatest:
            return int(value * 1_000)
        least_text, greatest_text = Decimal(least) / 1_000, Decimal(greatest) / 1_000
        self.report(name, f"must be a number from {least_text} to {greatest_text}")
        return default

    def list(self, name: str, *, greatest: int, required: bool = False) -> list[Any]:
        value = self.take(name)
        if value is None:
            if required:
                self.report(name, "is required")
            return []
        if not isinstance(value, list):
            self.report(name, "must be an array")
            return []
        if len(value) > greatest or (required and not value):
            self.report(name, f"has {len(value)} elements, 1 to {greatest} may be")
            return []
        return value

    def choice(self, name: str, choices: Mapping[str, Any], *, default: Any) -> Any:
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in choices:
            self.report(name, f"must be one of {', '.join(choices)}")
            return default
        return choices[value]

    def end(self, unsupported: Mapping[str, str]) -> None:
        """Report what was not taken; `unsupported` says why fields of Seata's are not known."""
        for name in self._values:
            if name not in self._taken:
                why = unsupported.get(name, "is not known here")
                self.report(name[:100], why)


Report = Callable[[str, str], None]
