"""Builds the wheel from a copy in which the server's rooms have a private name."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PrivateRooms(BuildHookInterface):  # type: ignore[type-arg, unused-ignore]
    """Replaces the package by the copy. An editable installation uses the rooms of the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling's `BuildHookInterface.initialize`."""
        if version == "editable":
            return
        here = Path(self.root)
        sys.path.insert(0, self.root)
        from private_rooms import copy  # noqa: PLC0415 - it is beside this file

        rooms = here / "rooms" if (here / "rooms").is_dir() else here.parent
        self._folder = tempfile.TemporaryDirectory()
        target = Path(self._folder.name)
        copy(rooms, here / "src" / "tidelock_testing", target)
        # Nothing of the folder as it is: the copy alone.
        self.build_config.target_config["exclude"] = ["*"]
        build_data["force_include"][str(target / "tidelock_testing")] = "tidelock_testing"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """See hatchling's `BuildHookInterface.finalize`."""
        if version != "editable":
            self._folder.cleanup()
