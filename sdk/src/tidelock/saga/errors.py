"""What SAGA raises.

::

    TidelockError
    └── SagaError
        ├── StepReportLostError    a step failed, and the coordinator could not be told
        └── SagaUnfinishedError    a saga that the cluster runs is still at work
"""

from __future__ import annotations

from tidelock.errors import TidelockError


class SagaError(TidelockError):
    """What SAGA raises by itself."""


class StepReportLostError(SagaError):
    """A step failed, and the coordinator could not be told: its transaction is not committed.

    What the step raised is its `__context__`.
    """


class SagaUnfinishedError(SagaError):
    """A saga that the cluster runs has not ended within the time for which it was waited."""
