"""What TCC raises.

::

    TidelockError
    └── TccError
        ├── TryRefusedError    the transaction was rolled back before its Try
        └── FenceError         a connection or a table does not do, or a business ended its commit
"""

from __future__ import annotations

from tidelock.errors import TidelockError


class TccError(TidelockError):
    """What TCC raises by itself."""


class TryRefusedError(TccError):
    """The transaction was rolled back before this Try, of which nothing is left."""


class FenceError(TccError):
    """The fence cannot be kept as it should be; nothing was done."""
