"""Seats that are reserved by steps without a database of their own: the coordinator keeps a fence.

`python -m tests.sdk.seats URL FILE MODE WHAT` reserves one in a process that may be killed, with
what ran written into a file, a line for each; WHAT is `commit`, `rollback`, or `serve`: print
`serving` and answer for branches until the input ends.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import tidelock
from tidelock.application import Application
from tidelock.driving import drive
from tidelock.fence.context import ActionContext
from tidelock.saga.steps import saga_step
from tidelock.tcc.actions import tcc_transaction

DONE, KEPT, UNDONE = "done", "kept", "undone"

_NAME: Final = "seats"


class Seats:
    """What was done, kept and undone of one seat, in order. Each happens at least once."""

    def __init__(self, application: Application, *, mode: str, file: Path | None = None) -> None:
        self._file = file
        self._ran: list[str] = []

        def reserve(context: ActionContext, row: int) -> None:
            self._run(DONE)

        def confirm(context: ActionContext) -> None:
            self._run(KEPT)

        def cancel(context: ActionContext, *arguments: Any, **named: Any) -> None:
            self._run(UNDONE)

        if mode == "TCC":
            decorate: Any = tcc_transaction(
                confirm=confirm, cancel=cancel, carry=("row",), name=_NAME, application=application
            )
        else:
            decorate = saga_step(compensate=cancel, name=_NAME, application=application)
        self._mode = mode
        self.reserve_now = decorate(reserve)

    def _run(self, what: str) -> None:
        if self._file is None:
            self._ran.append(what)
            return
        with self._file.open("a") as file:
            file.write(f"{what}\n")

    @property
    def ran(self) -> list[str]:
        if self._file is None:
            return self._ran
        return self._file.read_text().split() if self._file.exists() else []

    def is_whole(self, *, is_committed: bool) -> bool:
        """Whether it ended as its transaction did. What was never done need not be undone."""
        ran = self.ran
        if is_committed:
            kept = self._mode == "SAGA" or ran[-1] == KEPT
            return DONE in ran and UNDONE not in ran and kept
        return KEPT not in ran and (DONE not in ran or ran[-1] == UNDONE)


def main(url: str, file: str, mode: str, what: str) -> None:
    with Application([url], application_id="shop", timeout_ms=30_000) as application:
        seats = Seats(application, mode=mode, file=Path(file))
        if what == "serve":
            drive(application.session_id(application.blocking, timeout_ms=30_000))
            print("serving", flush=True)
            sys.stdin.read()
            return
        with tidelock.transaction(application=application, end_wait_ms=20_000) as transaction:
            seats.reserve_now(7)
            if what == "rollback":
                transaction.set_rollback_only()


if __name__ == "__main__":
    main(*sys.argv[1:])
