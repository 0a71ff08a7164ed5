"""One implementation for callers that await and callers that block.

What takes part in transactions is written once, as coroutines over protocols (`Calls`, `Session`).
With an asynchronous driver they really wait. With a blocking one each step is done when it
returns, so the coroutine never waits, and `drive` runs it to its end on the spot.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, and return what it does.

    Raises:
        RuntimeError: it wants to wait: an asynchronous step was given to a blocking caller.
    """
    try:
        work.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    finally:
        work.close()
    raise RuntimeError(
        "an asynchronous step in blocking code: use the asynchronous form of the call"
    )
