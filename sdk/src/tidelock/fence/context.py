"""What a step of a branch, its Confirm and its Cancel or compensation have in common."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from tidelock.fence.errors import FenceError

GREATEST_DATA_BYTES: Final = 16 * 1024


class ActionContext:
    """The branch that a step, or what keeps or undoes it, is of; what the first tells the others.

    `data` holds what JSON can: texts, whole numbers, floats, booleans, None, lists, mappings with
    texts as keys, up to 16 KiB. Decimals, dates, UUIDs and the like arrive as texts.
    """

    __slots__ = ("_connection", "branch_id", "data", "name", "xid")

    def __init__(
        self,
        *,
        xid: str,
        branch_id: int,
        name: str,
        data: dict[str, Any],
        connection: object = None,
    ) -> None:
        self.xid: Final = xid
        self.branch_id: Final = branch_id
        self.name: Final = name
        """The action's."""
        self.data = data
        """What the step puts in, the others find."""
        self._connection = connection

    @property
    def connection(self) -> Any:
        """The driver's own connection, in the local transaction of the fence. Do not commit it.

        Raises:
            FenceError: the action has no database.
        """
        if self._connection is None:
            raise FenceError(f"{self.name} has no database: its decorator's source=... gives one")
        return self._connection

    def on(self, connection: object) -> ActionContext:
        """Return the context with a connection, and the same data."""
        return ActionContext(
            xid=self.xid,
            branch_id=self.branch_id,
            name=self.name,
            data=self.data,
            connection=connection,
        )

    def __repr__(self) -> str:
        return f"<ActionContext of {self.name}: branch {self.branch_id} of {self.xid}>"


def encoded(name: str, data: dict[str, Any]) -> str:
    """Return the data of an action as JSON.

    Raises:
        ValueError: something in it is not JSON's, or it is too large.
    """
    try:
        text = msgspec.json.encode(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the data of {name} is no JSON: {error}") from None
    if len(text) > GREATEST_DATA_BYTES:
        raise ValueError(
            f"the data of {name} takes {len(text)} bytes, more than {GREATEST_DATA_BYTES}: "
            "keep it in a table, and here its key"
        )
    return text.decode()


def decoded(value: object) -> dict[str, Any]:
    """Return what came back as data; nothing when nothing did."""
    return {str(key): each for key, each in value.items()} if isinstance(value, dict) else {}
