"""What steps behind a fence raise.

::

    TidelockError
    ├── FenceError           a connection or a table does not do, or a step ended its local commit
    └── StepRefusedError     the transaction was rolled back before its step
"""

from __future__ import annotations

from tidelock.errors import TidelockError


class FenceError(TidelockError):
    """The fence cannot be kept as it should be; nothing was done."""


class StepRefusedError(TidelockError):
    """The transaction was rolled back before this step, of which nothing is left."""
