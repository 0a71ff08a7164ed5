"""`scripts/bank`: accounts in two databases, transfers by AT, and a leader that is killed."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import statistics
import sys
from pathlib import Path
from typing import Final

import msgspec

from scripts.tidelock_scripts.accounts.bank import (
    PROCESSES,
    WORKERS,
    BankOptions,
    BankReport,
    run_bank,
)
from scripts.tidelock_scripts.accounts.ledger import ACCOUNTS
from scripts.tidelock_scripts.accounts.processes import TellerError
from scripts.tidelock_scripts.database_servers import ServerError
from scripts.tidelock_scripts.local_cluster import DEFAULT_DATA_DIR, ClusterError
from scripts.tidelock_scripts.machine import describe_machine
from scripts.tidelock_scripts.terminal import Terminal

_SHOWN_FINDINGS: Final = 10


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    terminal = Terminal()
    data_dir = options.data or DEFAULT_DATA_DIR / f"bank-{options.seed}-{os.getpid()}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    terminal.line(
        f"{ACCOUNTS} accounts in MariaDB and PostgreSQL, {WORKERS} workers in {PROCESSES} "
        f"processes, {options.minutes:g} minutes, the leader killed every "
        f"{options.kill_every:g} s, seed {options.seed}"
    )
    try:
        report = asyncio.run(
            run_bank(
                BankOptions(
                    seconds=options.minutes * 60,
                    seed=options.seed,
                    data_dir=data_dir,
                    kill_every_s=options.kill_every,
                ),
                terminal,
            )
        )
    except (ClusterError, ServerError, TellerError) as error:
        print(f"scripts/bank: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scripts/bank: interrupted; what it started is gone", file=sys.stderr)
        return 130
    _print(report, terminal, data_dir)
    if options.json:
        document = {"machine": describe_machine(), "passed": report.passed, "report": report}
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    return 0 if report.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bank",
        description="Move money between MariaDB and PostgreSQL by AT while leaders die; then count "
        "it. Exit status 1: money is missing, or something is left behind.",
    )
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N", help="default 1")
    parser.add_argument(
        "--kill-every", type=float, default=20.0, metavar="S", help="seconds; default 20"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1 << 31),
        metavar="S",
        help="choose the same transfers and pauses again; default: a new one",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="default: below .tidelock/")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    return parser


def _print(report: BankReport, terminal: Terminal, data_dir: Path) -> None:
    without_s = report.without_leader_s
    rows = [
        ["transfers committed", f"{report.transfers['committed']:,}"],
        ["a second", f"{report.transfers['committed'] / report.seconds:.0f}"],
        ["rolled back by their workers", f"{report.transfers['rolled back']:,}"],
        ["of which workers were told nothing for sure", f"{report.transfers['unknown']:,}"],
        *([f"transactions {each}", f"{count:,}"] for each, count in sorted(report.ended.items())),
        ["leaders killed", str(report.kills)],
        *(
            [["without a leader, median / worst",
              f"{statistics.median(without_s):.2f} s / {max(without_s):.2f} s"]]
            if without_s
            else []
        ),
        ["until nothing was left", f"{report.settled_in_s:.1f} s"],
        ["in all accounts", f"{report.total:,}"],
    ]  # fmt: skip
    terminal.line()
    terminal.table(["bank", ""], rows)
    terminal.line()
    if report.passed:
        terminal.line(terminal.good("passed: the sum is exact, and nothing is left behind"))
        return
    for finding in report.findings[:_SHOWN_FINDINGS]:
        terminal.line(f"- {finding}")
    if len(report.findings) > _SHOWN_FINDINGS:
        terminal.line(f"  and {len(report.findings) - _SHOWN_FINDINGS} more")
    terminal.line(terminal.bad(f"FAILED with seed {report.seed}"))
    terminal.line(f"the nodes' data and logs, and all transfers, are in {data_dir}")


if __name__ == "__main__":
    sys.exit(main())
