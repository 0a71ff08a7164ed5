"""`python -m node`: run one node of a cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from node.config import Config, ConfigError, load_for_process
from node.config.reference import effective
from node.consensus.applying import StateBehindJournalError
from node.consensus.disk import DirectoryLockedError
from node.consensus.journal_format import JournalFormatError
from node.consensus.raft import IncompatibleLibraryError
from node.data_directory import DataDirectoryError
from node.logs import configure_logging
from node.process import Companion, Process
from node.storage import StorageError
from statemachine.state import UnsupportedStateError

EXIT_CONFIGURATION = 78
EXIT_CANNOT_START = 69

_CANNOT_START = (
    DataDirectoryError,
    DirectoryLockedError,
    IncompatibleLibraryError,
    JournalFormatError,
    OSError,
    StateBehindJournalError,
    StorageError,
    UnsupportedStateError,
)
"""What an operator has to mend first: one line says it, a traceback would hide it."""

_SWITCH_INTERVAL_S = 0.0001
"""How long the loop may keep the interpreter's lock once the journal's writer waits for it. The
default, 5 ms, would be added to every acknowledgement of a busy node."""


def main(companion: Companion | None = None) -> int:
    """Run a node as the command line says, with something beside it when an embedder wants."""
    try:
        launch = load_for_process(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    if launch.check_config:
        print(effective(launch.config))
        return 0
    config = launch.config
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    configure_logging(
        level=config.log.level.value, json=config.log.format.value == "json", node_id=config.node.id
    )
    process = Process(config, bootstrap=launch.bootstrap, companion=companion)
    try:
        with asyncio.Runner(loop_factory=_loop_factory(config)) as runner:
            runner.run(process.run())
    except _CANNOT_START as error:
        print(f"node {config.node.id} cannot start: {error}", file=sys.stderr)
        return EXIT_CANNOT_START
    return 0


def _loop_factory(config: Config) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if not config.node.uvloop:
        return None
    import uvloop  # noqa: PLC0415 - only when it is asked for

    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main())
