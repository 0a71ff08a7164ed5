"""The resources that a process answers for. Any thread may add to them."""

from __future__ import annotations

import threading

from tidelock.rm.messages import GREATEST_RESOURCE_BYTES, GREATEST_RESOURCES
from tidelock.rm.resource import Mode, Resource


class Roster:
    """Resources by mode and id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._resources: dict[tuple[str, str], Resource] = {}
        self.revision = 0
        """Grows whenever the cluster is to be told what there is."""

    def attach(self, resource: Resource) -> None:
        """Add a resource, or put it in the place of the one of the same mode and id.

        Raises:
            ValueError: its id is none, or there are too many.
        """
        resource_id = resource.resource_id
        if not 0 < len(resource_id.encode()) <= GREATEST_RESOURCE_BYTES:
            raise ValueError(
                f"{resource_id[:80]!r} is no id of a resource: it has 1 to "
                f"{GREATEST_RESOURCE_BYTES} bytes"
            )
        key = (resource.mode, resource_id)
        with self._lock:
            if key not in self._resources:
                ids = {named for _, named in self._resources} | {resource_id}
                if len(ids) > GREATEST_RESOURCES:
                    raise ValueError(
                        f"{GREATEST_RESOURCES} resources are attached already, which is what one "
                        "process may have; detach one, or make another Application"
                    )
                self.revision += 1
            self._resources[key] = resource

    def detach(self, mode: Mode, resource_id: str) -> None:
        """Take a resource out. Nothing happens when there is none."""
        with self._lock:
            if self._resources.pop((mode, resource_id), None) is not None:
                self.revision += 1

    def find(self, mode: str, resource_id: str) -> Resource | None:
        """Return the resource of this mode and id."""
        return self._resources.get((mode, resource_id))

    def snapshot(self) -> tuple[int, tuple[Resource, ...]]:
        """Return the revision, and all that it has."""
        with self._lock:
            return self.revision, tuple(self._resources.values())

    def __len__(self) -> int:
        return len(self._resources)

    def after_fork(self) -> None:
        """In the child: a thread that is not there may have held the lock."""
        self._lock = threading.Lock()
