"""Results of saga definitions."""

from __future__ import annotations

from statemachine.outcomes.result import Result


class SagaDefinitionPut(Result, frozen=True, tag=87):
    """What sagas of the name follow now."""

    name: str
    version: int
    changed: bool
    """False when it had been so before."""


class SagaDefinitionDeleted(Result, frozen=True, tag=88):
    name: str
    deleted: bool
    """False when there was none."""
