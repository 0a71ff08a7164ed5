"""What SAGA raises.

::

    TidelockError
    └── SagaError
        └── StepReportLostError    a step failed, and the coordinator could not be told
"""

from __future__ import annotations

from tidelock.errors import TidelockError


class SagaError(TidelockError):
    """What SAGA raises by itself."""


class StepReportLostError(SagaError):
    """A step failed, and the coordinator could not be told: its transaction is not committed.

    What the step raised is its `__context__`.
    """
