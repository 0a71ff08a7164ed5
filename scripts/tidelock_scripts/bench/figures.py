"""Figures, their goals, and how they are printed and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from scripts.tidelock_scripts.terminal import Terminal


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that a figure is to keep, inclusive."""

    bound: float
    kind: Literal["at least", "at most"]

    def is_met_by(self, value: float) -> bool:
        return value >= self.bound if self.kind == "at least" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str
    goal: Goal | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal was reached; None without one."""
        return self.goal.is_met_by(self.value) if self.goal else None


def at_least(bound: float) -> Goal:
    return Goal(bound, "at least")


def at_most(bound: float) -> Goal:
    return Goal(bound, "at most")


def print_figures(figures: list[Figure], terminal: Terminal) -> None:
    rows = [
        [
            figure.name,
            f"{_shown(figure.value)} {figure.unit}".rstrip(),
            f"{figure.goal.kind} {_shown(figure.goal.bound)}" if figure.goal else "",
            {True: "yes", False: "NO", None: ""}[figure.met],
        ]
        for figure in figures
    ]
    terminal.table(["figure", "value", "goal", "met"], rows)


def as_json(machine: Mapping[str, object], seconds: float, figures: list[Figure]) -> bytes:
    document = {
        "machine": machine,
        "seconds": round(seconds, 1),
        "figures": [
            {
                "name": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "goal": figure.goal,
                "met": figure.met,
                "details": figure.details,
            }
            for figure in figures
        ],
    }
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


def _shown(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
