"""What can be wrong with a configuration: every fault at once, each with a way to mend it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    key: str
    """The setting as `section.name`; empty when the file as a whole is meant."""
    origin: str
    """Where the value came from: the file, an environment variable, the command line."""
    wrong: str
    """What is wrong, with the value that was found."""
    mend: str
    """What to do about it, as an instruction."""

    def __str__(self) -> str:
        where = f"{self.key} ({self.origin})" if self.key else self.origin
        return f"{where}: {self.wrong}. {self.mend}."


class ConfigError(Exception):
    """The configuration cannot be used. `problems` holds every fault that was found."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = [f"the configuration has {count}:"]
        lines.extend(f"  - {problem}" for problem in self.problems)
        super().__init__("\n".join(lines))
