"""Changes of synchronisation rounds."""

from __future__ import annotations

from typing import ClassVar

from statemachine.changes.change import Change


class SyncClosed(Change, frozen=True, tag=40):
    """A round has a target, which its reporters are to take and to acknowledge."""

    kind: ClassVar[str] = "sync.closed"

    round: int
    target_lamport: int
    target_vector: dict[str, int]
    reporters: tuple[str, ...]


class SyncSynchronised(Change, frozen=True, tag=41):
    """All reporters of a round have taken its target."""

    kind: ClassVar[str] = "sync.synchronised"

    round: int
