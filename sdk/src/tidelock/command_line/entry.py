"""Where the command begins: it says what to install when its libraries are not there."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command with the arguments of the process."""
    try:
        from tidelock.command_line.commands import tidelock  # noqa: PLC0415 (needs click)
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit('tidelock: the command line is an extra: pip install "tidelock[cli]"')
    tidelock()
