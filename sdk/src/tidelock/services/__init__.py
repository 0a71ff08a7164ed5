"""Business that nodes run in the two databases of the XA and JTA services.

What the built-in types take is here, and what one's own are written against: a function of a
`Work` and its data, found by the entry point group `tidelock.business`. See docs/SERVICES.md.
"""

from tidelock.services.business import (
    ENTRY_POINTS,
    BatchFailedError,
    Business,
    BusinessError,
    DataSource,
    JtaStatus,
    Synchronization,
    Work,
)
from tidelock.services.complex_order import ComplexOrder
from tidelock.services.data_changes import BatchUpdate, DataMigration

__all__ = [
    "ENTRY_POINTS",
    "BatchFailedError",
    "BatchUpdate",
    "Business",
    "BusinessError",
    "ComplexOrder",
    "DataMigration",
    "DataSource",
    "JtaStatus",
    "Synchronization",
    "Work",
]
