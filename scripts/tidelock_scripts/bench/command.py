"""`scripts/bench`: figures of three nodes on this machine, against their goals."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from scripts.tidelock_scripts.accounts.processes import TellerError
from scripts.tidelock_scripts.bench import (
    applying,
    at_rate,
    at_statements,
    branches,
    conflict,
    dtm,
    failover,
    fullness,
    growth,
    in_process,
    locks,
    steady,
    transactions,
    vectors,
    watch,
)
from scripts.tidelock_scripts.bench.figures import Figure, as_json, print_figures
from scripts.tidelock_scripts.bench.setting import Bench, echo_server
from scripts.tidelock_scripts.database_servers import ServerError
from scripts.tidelock_scripts.local_cluster import ClusterError
from scripts.tidelock_scripts.machine import describe_machine
from scripts.tidelock_scripts.terminal import Terminal

CASES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "events": steady.events,
    "batch": steady.batch,
    "reads": steady.reads,
    "tso": steady.tso,
    "sequences": steady.sequences,
    "locks": locks.locks,
    "vectors": vectors.vectors,
    "transactions": transactions.transactions,
    "branches": branches.branches,
    "dtm": dtm.dtm,
    "at": at_statements.at,
    "at-rate": at_rate.at_rate,
    "latency": steady.latency,
    "in-process": in_process.in_process,
    "applying": applying.applying,
    "watch": watch.watch,
    "failover": failover.failover,
    "pause": failover.pause,
    "follower": failover.follower,
    "branch-failover": branches.branch_failover,
    "conflict": conflict.conflict,
    "growth": growth.growth,
}

LONG_CASES: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "finished": fullness.finished,
    "held": fullness.held,
}
"""They take some minutes each, and run only when they are named."""

_ALL_CASES = {**CASES, **LONG_CASES}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    terminal = Terminal()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = describe_machine()
    terminal.line(", ".join(f"{name} {value}" for name, value in machine.items()))
    terminal.line()
    begun_at = time.monotonic()
    figures: list[Figure] = []
    failed: Exception | None = None
    try:
        uvloop.run(_run(options, terminal, figures))
    except (ClusterError, ServerError, TellerError) as error:
        failed = error
    except KeyboardInterrupt:
        print("scripts/bench: interrupted; the nodes are stopped and gone", file=sys.stderr)
        return 130
    if figures:
        print_figures(figures, terminal)
    if options.json:
        options.json.write_bytes(as_json(machine, time.monotonic() - begun_at, figures))
    if failed is not None:
        print(f"scripts/bench: {failed}", file=sys.stderr)
        return 1
    return 0 if all(figure.met is not False for figure in figures) else 3


async def _run(options: argparse.Namespace, terminal: Terminal, figures: list[Figure]) -> None:
    async with echo_server() as echo_port:
        bench = Bench(
            seconds=options.seconds,
            events=options.events,
            kills=options.kills,
            transactions=options.transactions,
            echo_port=echo_port,
            terminal=terminal,
            figures=figures,
        )
        for name in options.only or CASES:
            await _ALL_CASES[name](bench)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure three nodes on this machine. Exit status 3: a goal was not reached.",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="for each rate; default 5"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(_ALL_CASES),
        metavar="NAME",
        help=f"a case, may be repeated: {', '.join(CASES)}; and, which take minutes and are left "
        f"out unless they are named: {', '.join(LONG_CASES)}",
    )
    parser.add_argument(
        "--events", type=int, default=1_000_000, metavar="N", help="for growth; default 1000000"
    )
    parser.add_argument(
        "--transactions",
        type=int,
        default=1_000_000,
        metavar="N",
        help="finished ones, and rows locked, for finished and held; default 1000000",
    )
    parser.add_argument(
        "--kills", type=int, default=30, metavar="N", help="for failover; default 30"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
