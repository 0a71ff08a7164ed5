"""The data directory of a node: who it is, and what to do when it cannot be trusted any more.

identity.json   node id and disk uuid, made once
journal/        segments of the log
state/          LMDB
damaged-…/      what was put aside when it could not be read, the last one only
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Final

from node.state_copy import sync_directory

_IDENTITY: Final = "identity.json"
_PARTS: Final = ("journal", "state")


class DataDirectoryError(Exception):
    """The directory belongs to another node, or its identity cannot be read."""


class DataDirectory:
    """Call `open` while holding the directory's lock."""

    def __init__(self, path: Path, node_id: str, disk_uuid: bytes) -> None:
        self.path = path
        self.node_id = node_id
        self.disk_uuid = disk_uuid

    @classmethod
    def open(cls, path: Path, node_id: str) -> DataDirectory:
        """Read the identity, or make one for an empty directory.

        Raises:
            DataDirectoryError
            OSError
        """
        path.mkdir(parents=True, exist_ok=True)
        file = path / _IDENTITY
        if not file.exists():
            if any((path / part).exists() for part in _PARTS):
                raise DataDirectoryError(
                    f"{path} holds data but no {_IDENTITY}; empty the directory to rejoin as a "
                    "node with a new disk"
                )
            return cls._create(path, node_id)
        try:
            identity = json.loads(file.read_text())
            found_id, disk_uuid = str(identity["nodeId"]), uuid.UUID(identity["diskUuid"]).bytes
        except (ValueError, KeyError, TypeError) as error:
            raise DataDirectoryError(f"{file} cannot be read: {error}") from error
        if found_id != node_id:
            raise DataDirectoryError(f"{path} belongs to node {found_id}, this node is {node_id}")
        return cls(path, node_id, disk_uuid)

    @classmethod
    def _create(cls, path: Path, node_id: str) -> DataDirectory:
        made = uuid.uuid4()
        unfinished = path / (_IDENTITY + ".part")
        with unfinished.open("w") as file:
            json.dump({"nodeId": node_id, "diskUuid": str(made)}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path / _IDENTITY)
        sync_directory(path)
        return cls(path, node_id, made.bytes)

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def state(self) -> Path:
        return self.path / "state"

    def put_aside(self) -> Path:
        """Move everything away: the next open makes a new identity and an empty disk.

        The data is kept for an inquiry, but only the last such, so that a failing disk does not
        fill up.
        """
        for old in self.path.glob("damaged-*"):
            shutil.rmtree(old, ignore_errors=True)
        target = self.path / time.strftime("damaged-%Y%m%dT%H%M%SZ", time.gmtime())
        target.mkdir()
        # The identity goes first: without it, a crash in between leaves a refusal, not a mixture.
        for name in (_IDENTITY, *_PARTS):
            if (self.path / name).exists():
                (self.path / name).rename(target / name)
        sync_directory(self.path)
        return target
