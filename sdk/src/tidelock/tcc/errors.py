"""What TCC raises.

::

    TidelockError
    ├── StepRefusedError
    │   └── TryRefusedError    the transaction was rolled back before its Try; a TccError as well
    └── TccError
"""

from __future__ import annotations

from tidelock.errors import TidelockError
from tidelock.fence.errors import StepRefusedError


class TccError(TidelockError):
    """What TCC raises by itself."""


class TryRefusedError(TccError, StepRefusedError):
    """The transaction was rolled back before this Try, of which nothing is left."""
