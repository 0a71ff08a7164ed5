"""Tidelock for applications: what a service needs every day, by one name each.

Names are loaded when they are first used, so that `tidelock.clocks`, which depends on nothing, can
be imported alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tidelock.application import Application, NotConfiguredError, configure, configured
    from tidelock.transaction.context import bound, current_xid

__all__ = [
    "Application",
    "NotConfiguredError",
    "bound",
    "configure",
    "configured",
    "current_xid",
]

_MODULES: Final = {
    "tidelock.application": ("Application", "NotConfiguredError", "configure", "configured"),
    "tidelock.transaction.context": ("bound", "current_xid"),
}
_MODULE_OF: Final = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
