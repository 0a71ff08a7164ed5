"""What a step that the cluster calls knows of its call."""

from __future__ import annotations

from typing import Any, Final


class StepContext:
    """The branch that a step, or its compensation, is of."""

    __slots__ = ("branch_id", "connection", "name", "result", "xid")

    def __init__(self, *, xid: str, branch_id: str, name: str, connection: Any) -> None:
        self.xid: Final = xid
        """The saga; DTM's gid."""
        self.branch_id: Final = branch_id
        self.name: Final = name
        """The step's."""
        self.connection: Final = connection
        """The driver's own, in the local transaction of the barrier. Do not commit it."""
        self.result: Any = None
        """For a compensation: what the step has returned, as JSON has it."""

    def __repr__(self) -> str:
        return f"<StepContext of {self.name}: branch {self.branch_id} of {self.xid}>"
