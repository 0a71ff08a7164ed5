"""A run of the bank: transfers by AT while the leader is killed again and again, then the accounts.

What must hold at the end: no money was made or lost; each account has what the committed transfers
left there; what workers were told is what the cluster says; and nothing is left behind: no
transaction without an end, no row lock, no undo row, no session.
"""

from __future__ import annotations

import asyncio
import collections
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec

from scripts.tidelock_scripts.accounts.ledger import (
    ACCOUNTS,
    OPENED_WITH,
    Ledger,
    Transfer,
    expected,
    opened_ledger,
)
from scripts.tidelock_scripts.accounts.processes import Tellers, running_tellers
from scripts.tidelock_scripts.accounts.teller import Plan
from scripts.tidelock_scripts.client import ClusterClient
from scripts.tidelock_scripts.cluster_command import bring_up, find_leader
from scripts.tidelock_scripts.local_cluster import ClusterError, LocalCluster, free_base_port
from scripts.tidelock_scripts.terminal import Terminal
from tidelock.client import Client

PROCESSES: Final = 4
WORKERS: Final = 16

_CHANGES_ITS_MIND: Final = 0.1
_CLEAN_AFTER_MS: Final = 1_000
_DOWN_S: Final = (0.5, 3.0)
"""How long a killed node stays away, at least and at most."""
_SETTLED_WITHIN_S: Final = 60.0
"""Longer than the timeout of a transaction that nobody decides."""
_SAID_EVERY_S: Final = 5.0
_POLL_S: Final = 0.2
_LEADS_WITHIN_S: Final = 30.0
_ENDED: Final = frozenset({"COMMITTED", "ROLLED_BACK", "TIMEOUT_ROLLED_BACK"})
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BankOptions:
    seconds: float
    """Of transfers; settling and checks come on top."""
    seed: int
    data_dir: Path
    kill_every_s: float = 20.0


@dataclass(slots=True)
class BankReport:
    seed: int
    seconds: float
    transfers: collections.Counter[str] = field(default_factory=collections.Counter)
    """By what workers were told, and by the failures they met."""
    ended: collections.Counter[str] = field(default_factory=collections.Counter)
    """Transactions by the status that the cluster keeps."""
    kills: int = 0
    without_leader_s: list[float] = field(default_factory=list)
    """From each kill until another node led."""
    total: int = 0
    """The money in all accounts."""
    settled_in_s: float = 0.0
    findings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.findings


async def run_bank(options: BankOptions, terminal: Terminal) -> BankReport:
    """Start servers, a cluster and applications; disturb and check; end all. What failed stays.

    Raises:
        ClusterError, ServerError, TellerError: the run broke off.
    """
    report = BankReport(options.seed, options.seconds)
    environment = {"TIDELOCK_CHANNELS_CLEAN_AFTER_MS": str(_CLEAN_AFTER_MS)}
    base_port = free_base_port()
    plan = LocalCluster(options.data_dir, base_port=base_port)
    if plan.exists:
        raise ClusterError(f"{options.data_dir} holds a cluster already; choose another --data")
    cluster = LocalCluster(
        options.data_dir,
        base_port=base_port,
        environment=dict.fromkeys(plan.places, environment),
    )
    with opened_ledger() as ledger:
        try:
            await bring_up(cluster, terminal)
            await _Run(options, terminal, report, cluster, ledger).run()
        except asyncio.CancelledError:  # interrupted: there is nothing to look into
            cluster.stop()
            _remove(cluster, options.data_dir)
            raise
        finally:
            cluster.stop()
    if report.passed:
        _remove(cluster, options.data_dir)
    return report


def _remove(cluster: LocalCluster, data_dir: Path) -> None:
    for journal in data_dir.glob("transfers-*"):
        journal.unlink()
    cluster.remove()


class _Run:
    def __init__(
        self,
        options: BankOptions,
        terminal: Terminal,
        report: BankReport,
        cluster: LocalCluster,
        ledger: Ledger,
    ) -> None:
        self._options = options
        self._terminal = terminal
        self._report = report
        self._cluster = cluster
        self._ledger = ledger
        self._chance = random.Random(options.seed)  # noqa: S311  # replayed by seed
        self._begun_at = time.monotonic()

    async def run(self) -> None:
        addresses = list(self._cluster.addresses.values())
        async with (
            ClusterClient(self._cluster.addresses) as nodes,
            Client(addresses) as client,
        ):
            async with running_tellers(self._plans()) as tellers:
                self._begun_at = time.monotonic()
                await self._disturb(nodes, tellers)
                self._report.transfers = await tellers.stop()
                self._say("transfers have ended; waiting until nothing is left")
                # The processes live on meanwhile: they answer for the branches that are left.
                await self._settle(client)
            await self._await_nothing("a session", lambda: self._sessions(client))
            await self._check(client)

    def _plans(self) -> list[Plan]:
        drivers: tuple[Literal["blocking", "awaiting"], ...] = ("blocking", "awaiting")
        each = WORKERS // PROCESSES
        return [
            Plan(
                addresses=list(self._cluster.addresses.values()),
                databases={name: self._ledger.where(name) for name in ("mysql", "postgresql")},
                driver=drivers[number % 2],
                workers=each,
                first=number * each,
                seed=self._options.seed,
                changes_its_mind=_CHANGES_ITS_MIND,
                journal=str(self._journal(number)),
            )
            for number in range(PROCESSES)
        ]

    def _journal(self, number: int) -> Path:
        return self._options.data_dir / f"transfers-{number}.jsonl"

    # While money moves

    async def _disturb(self, nodes: ClusterClient, tellers: Tellers) -> None:
        ends_at = self._begun_at + self._options.seconds
        kills_at = self._begun_at + self._options.kill_every_s
        says_at = self._begun_at + _SAID_EVERY_S
        while (now := time.monotonic()) < ends_at:
            if now >= kills_at:
                kills_at += self._options.kill_every_s
                await self._kill_leader(nodes)
            if now >= says_at:
                says_at = now + _SAID_EVERY_S
                counters = await tellers.count()
                self._say(
                    f"{counters['committed']} committed, {counters['rolled back']} rolled back, "
                    f"{counters['unknown']} unknown"
                )
            await asyncio.sleep(min(_POLL_S, max(0.0, ends_at - time.monotonic())))
        await self._cluster.wait_until_ready()

    async def _kill_leader(self, nodes: ClusterClient) -> None:
        leader = await self._leader(nodes)
        killed_at = time.monotonic()
        self._cluster.kill(leader)
        self._report.kills += 1
        successor = await self._leader(nodes)
        took_s = time.monotonic() - killed_at
        self._report.without_leader_s.append(round(took_s, 3))
        self._say(f"killed {leader}; {successor} leads after {took_s:.2f} s")
        await asyncio.sleep(self._chance.uniform(*_DOWN_S))
        self._cluster.start(leader)
        await self._cluster.wait_until_ready()

    async def _leader(self, nodes: ClusterClient) -> str:
        ends_at = time.monotonic() + _LEADS_WITHIN_S
        while time.monotonic() < ends_at:
            leader = await find_leader(nodes, self._cluster)
            if leader is not None:
                return leader
            await asyncio.sleep(0.01)
        raise ClusterError(f"no node leads after {_LEADS_WITHIN_S:.0f} s")

    # Afterwards

    async def _settle(self, client: Client) -> None:
        begun_at = time.monotonic()

        async def undo_rows() -> list[str]:
            found = await asyncio.to_thread(self._ledger.undo_rows)
            return [f"{found} undo rows"] if found else []

        await self._await_nothing("a transaction", lambda: self._unended(client))
        await self._await_nothing("a row lock", lambda: self._locked(client))
        await self._await_nothing("an undo row", undo_rows)
        self._report.settled_in_s = time.monotonic() - begun_at

    async def _await_nothing(self, what: str, look: Callable[[], Awaitable[list[str]]]) -> None:
        ends_at = time.monotonic() + _SETTLED_WITHIN_S
        while found := await look():
            if time.monotonic() >= ends_at:
                self._report.findings += [f"{what} is left: {each}" for each in found]
                return
            await asyncio.sleep(_POLL_S)

    async def _unended(self, client: Client) -> list[str]:
        statuses = await _statuses(client)
        return [f"{xid} is {status}" for xid, status in statuses.items() if status not in _ENDED]

    async def _locked(self, client: Client) -> list[str]:
        return [f"{row.table} {list(row.key)}" async for row in client.row_locks.list()]

    async def _sessions(self, client: Client) -> list[str]:
        return [f"{each.session_id}" async for each in client.resource_managers.sessions()]

    async def _check(self, client: Client) -> None:
        report = self._report
        statuses = await _statuses(client)
        report.ended.update(statuses.values())
        transfers = list(self._transfers())
        committed = [each for each in transfers if statuses.get(each.xid) == "COMMITTED"]
        report.findings += told_otherwise(transfers, statuses)
        balances = await asyncio.to_thread(self._ledger.balances)
        report.total = sum(balances.values())
        if report.total != ACCOUNTS * OPENED_WITH:
            report.findings.append(
                f"there were {ACCOUNTS * OPENED_WITH} in all accounts, now there are {report.total}"
            )
        for account, balance in expected(committed).items():
            if balances[account] != balance:
                has = f"account {account} has {balances[account]}"
                report.findings.append(f"{has}, and committed transfers leave {balance}")

    def _transfers(self) -> Iterable[Transfer]:
        decoder = msgspec.json.Decoder(Transfer)
        for number in range(PROCESSES):
            for line in self._journal(number).read_bytes().splitlines():
                yield decoder.decode(line)

    def _say(self, what: str) -> None:
        self._terminal.line(f"{time.monotonic() - self._begun_at:6.1f} s  {what}")


async def _statuses(client: Client) -> dict[str, str]:
    return {row.xid: row.status async for row in client.transactions.list(page_size=_PAGE)}


def told_otherwise(transfers: Iterable[Transfer], statuses: dict[str, str]) -> list[str]:
    """Return where a worker was told something else than what the cluster has."""
    return [
        f"{each.xid} is {statuses.get(each.xid)}, and its worker was told that it was {each.told}"
        for each in transfers
        if each.told != "unknown"
        and (each.told == "committed") != (statuses.get(each.xid) == "COMMITTED")
    ]
