"""What XA raises.

::

    TidelockError
    ├── XaBranchError     a branch could not be prepared; its work is rolled back
    └── XaMisuseError     the code used a branch's connection in a way that XA does not allow
"""

from __future__ import annotations

from tidelock.errors import TidelockError


class XaBranchError(TidelockError):
    """A branch could not be prepared, so its work is undone and its transaction must roll back."""


class XaMisuseError(TidelockError):
    """A branch's connection was used by two at once, or after its branch was prepared."""
