"""The branch barrier: a branch is done once, is not done after it was undone, and is not undone
before it was done.

For services that the cluster calls (docs/BRANCH_CALLS.md of the repository), or a DTM server. Calls
may come twice, a compensation before its action or instead of it. The barrier notices by rows that
are written in the business's own local transaction. docs/sdk/BARRIER.md shows how.
"""

from tidelock.barrier.barrier import BranchBarrier
from tidelock.barrier.branch import Branch, BranchRequestError
from tidelock.barrier.outcomes import BarrierError, Outcome
from tidelock.barrier.tables import barrier_ddl

__all__ = [
    "BarrierError",
    "Branch",
    "BranchBarrier",
    "BranchRequestError",
    "Outcome",
    "barrier_ddl",
]
