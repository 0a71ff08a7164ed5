"""The connection of a group as a block has it."""

from __future__ import annotations

from typing import Any

from tidelock.lcn.errors import LcnMisuseError
from tidelock.lcn.lending import Lent
from tidelock.sql.drivers.lent_connections import LentConnection


class LcnConnection(LentConnection):
    """A group's connection, as a block has it."""

    def __init__(self, wrapped: Any, lent: Lent) -> None:
        super().__init__(wrapped, lent)
        self._self_lent = lent

    def begin(self, *_: Any, **__: Any) -> Any:
        """As `commit`: that is what beginning another one does."""
        return self.commit()

    def __getattr__(self, name: str) -> Any:
        if self._self_lent.is_over:
            raise LcnMisuseError(
                "the block of this connection has ended; what is done now would belong to nobody"
            )
        value = super().__getattr__(name)
        if name == "executescript" or (name == "autocommit" and callable(value)):

            def refuse(*_: Any, **__: Any) -> Any:
                raise LcnMisuseError(f"{name}() would commit what is held for the group")

            return refuse
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in {"autocommit", "isolation_level"}:
            raise LcnMisuseError(f"changing {name} would commit what is held for the group")
        super().__setattr__(name, value)
