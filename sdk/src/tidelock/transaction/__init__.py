"""Global transactions, as applications begin, join and end them.

The package can be called: `tidelock.transaction("purchase")` is `blocks.transaction`, whether the
package of the same name was imported before or not.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from tidelock.transaction import blocks  # noqa: PLC0415 - clients are loaded when used

        return blocks.transaction(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
