"""Which business types there are: built in, and brought by other distributions."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from tidelock.services.business import ENTRY_POINTS

COMPLEX_ORDER: Final = "COMPLEX_ORDER"
BATCH_UPDATE: Final = "BATCH_UPDATE"
DATA_MIGRATION: Final = "DATA_MIGRATION"
BUILT_IN: Final = (COMPLEX_ORDER, BATCH_UPDATE, DATA_MIGRATION)


def brought() -> dict[str, EntryPoint]:
    """Return the entry points of other distributions by their business types; none is loaded."""
    found = {each.name: each for each in entry_points(group=ENTRY_POINTS)}
    return {name: each for name, each in sorted(found.items()) if name not in BUILT_IN}


def business_types() -> tuple[str, ...]:
    """Return the names of all."""
    return (*BUILT_IN, *brought())


def load(name: str) -> Callable[..., Any]:
    """Return the business of a type that another distribution brings.

    Raises:
        LookupError: none does.
        Exception: whatever importing it raises.
    """
    found = brought().get(name)
    if found is None:
        raise LookupError(f"no distribution that is installed brings the business type {name!r}")
    loaded: Callable[..., Any] = found.load()
    return loaded
