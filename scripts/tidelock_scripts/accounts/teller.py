"""An application process: workers that move money between accounts by AT.

Started as `python -m scripts.tidelock_scripts.accounts.teller PLAN`, the plan in JSON. It prints
`ready`; then each line on its standard input is answered with its counters, in JSON: at once after
`count`, and after `stop` when its workers have ended. It lives on, and answers for the branches
that are left, until its standard input ends.
"""

from __future__ import annotations

import asyncio
import collections
import random
import sys
import threading
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

import tidelock
from scripts.tidelock_scripts.accounts.hands import (
    AwaitingHands,
    BlockingHands,
    ChangedMindError,
    NotEnoughError,
)
from scripts.tidelock_scripts.accounts.ledger import ACCOUNTS, Transfer
from tidelock.sql.dialects import DialectName

_GREATEST_AMOUNT: Final = 20
_AFTER_A_FAILURE_S: Final = 0.2
_HARMLESS: Final = (ChangedMindError, NotEnoughError)


class Plan(msgspec.Struct, kw_only=True):
    """What a process is to do."""

    addresses: list[str]
    databases: dict[DialectName, dict[str, Any]]
    """What the blocking driver of each dialect is told."""
    driver: Literal["blocking", "awaiting"]
    workers: int
    first: int
    """The number of its first worker; no two processes share one."""
    seed: int
    meets_others: bool = True
    """Whether workers use all accounts, or two of their own each."""
    changes_its_mind: float = 0.0
    """Which share of the transfers is rolled back when all is done."""
    journal: str = ""
    """Where each transfer is noted, a line of JSON each; what goes wrong is in a file beside it."""


class Teller:
    """The workers of one process."""

    def __init__(self, plan: Plan, application: tidelock.Application) -> None:
        self._plan = plan
        self._application = application
        self.counters: collections.Counter[str] = collections.Counter()
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self._journal = Path(plan.journal).open("wb") if plan.journal else None  # noqa: SIM115

    async def run(self) -> None:
        """Have all workers work until it is over."""
        numbers = range(self._plan.first, self._plan.first + self._plan.workers)
        if self._plan.driver == "awaiting":
            await asyncio.gather(*(self._await_transfers(number) for number in numbers))
            return
        threads = [
            threading.Thread(target=self._block_for_transfers, args=(number,)) for number in numbers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)

    def stop(self) -> None:
        """Let the workers end with what they are at."""
        self._is_over.set()

    def close(self) -> None:
        """Have the journal on disk."""
        if self._journal is not None:
            self._journal.close()

    def _block_for_transfers(self, worker: int) -> None:
        chance = self._chance(worker)
        hands = BlockingHands(self._application, self._plan.databases)
        while not self._is_over.is_set():
            transfer = self._chosen(worker, chance)
            error: Exception | None = None
            try:
                hands.move(transfer, changes_its_mind=self._changes_its_mind(chance))
            except Exception as raised:
                error = raised
            if self._note(transfer, error):
                hands.drop()
                self._is_over.wait(_AFTER_A_FAILURE_S)
        hands.drop()

    async def _await_transfers(self, worker: int) -> None:
        chance = self._chance(worker)
        hands = AwaitingHands(self._application, self._plan.databases)
        while not self._is_over.is_set():
            transfer = self._chosen(worker, chance)
            error: Exception | None = None
            try:
                await hands.move(transfer, changes_its_mind=self._changes_its_mind(chance))
            except Exception as raised:
                error = raised
            if self._note(transfer, error):
                await hands.drop()
                await asyncio.sleep(_AFTER_A_FAILURE_S)
        await hands.drop()

    def _chance(self, worker: int) -> random.Random:
        return random.Random(f"{self._plan.seed}-{worker}")  # noqa: S311  # replayed by seed

    def _changes_its_mind(self, chance: random.Random) -> bool:
        return chance.random() < self._plan.changes_its_mind

    def _chosen(self, worker: int, chance: random.Random) -> Transfer:
        """Return what is to be moved next."""
        own = range(2 * worker, 2 * worker + 2)
        giver, taker = chance.sample(range(ACCOUNTS) if self._plan.meets_others else own, 2)
        return Transfer("", giver, taker, chance.randint(1, _GREATEST_AMOUNT))

    def _note(self, transfer: Transfer, error: Exception | None) -> bool:
        """Count a transfer that has ended, write it down, and say whether it was a failure."""
        failed = error is not None and not isinstance(error, _HARMLESS)
        # What is raised in the block is raised once the transaction is rolled back.
        transfer.told = "unknown" if failed else "committed" if error is None else "rolled back"
        transfer.error = "" if error is None else type(error).__name__
        with self._lock:
            self.counters[transfer.told] += 1
            if failed:
                self.counters[transfer.error] += 1
            if self._journal is not None:
                self._journal.write(msgspec.json.encode(transfer) + b"\n")
        return failed


async def main() -> None:
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    application = tidelock.Application(plan.addresses, application_id="tellers")
    teller = Teller(plan, application)
    work = asyncio.create_task(teller.run())
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        if line.strip() == "stop":
            teller.stop()
            await work
            teller.close()
        print(msgspec.json.encode(teller.counters).decode(), flush=True)
    teller.stop()
    await work
    await application.aclose()


if __name__ == "__main__":
    asyncio.run(main())
