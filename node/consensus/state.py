"""What the engine needs of the place where the replicated state is kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from statemachine.store import Store


class StateCopy(Protocol):
    """A copy of the state at one applied index, held for peers that need it."""

    @property
    def index(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def sha256(self) -> bytes: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def discard(self) -> None: ...


class IncomingCopy(Protocol):
    """A copy under way to this node."""

    def write(self, data: bytes) -> None:
        """Raises: OSError"""

    def finish(self, on_done: Callable[[bytes | Exception], None]) -> None:
        """Make it durable and check it, away from the loop; `on_done` gets its SHA-256."""

    def discard(self) -> None: ...


class StateStorage(Store, Protocol):
    """The store, with the boundaries that the engine sets."""

    def end_entry(self) -> None:
        """An entry was applied completely: what it wrote belongs together."""

    def checkpoint(self, *, force: bool = False) -> bool:
        """Make the state durable when it is time to; True when it now is."""

    @property
    def durable_index(self) -> int:
        """The applied index that the last checkpoint made durable."""

    def range_digest(
        self, start: bytes, stop: bytes, limit_bytes: int
    ) -> tuple[bytes, bytes | None]:
        """Digest about `limit_bytes` of rows in `[start, stop)`, and say where to go on.

        Raises: DamagedStateError
        """

    def copy(self, on_done: Callable[[StateCopy | Exception], None]) -> None:
        """Begin a copy of the durable state; `on_done` is called on the loop."""

    def receive_copy(self) -> IncomingCopy:
        """Begin to receive a copy, discarding an unfinished one."""

    def install_copy(self, incoming: IncomingCopy) -> None:
        """Replace the state by a finished copy, atomically and durably."""

    @property
    def fill_ratio(self) -> float:
        """How full state and disk are, 0 to 1."""
