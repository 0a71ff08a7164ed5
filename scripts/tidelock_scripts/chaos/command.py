"""`scripts/chaos`: real nodes under faults for as long as you like."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import sys
import time
from pathlib import Path

import msgspec

from scripts.tidelock_scripts.chaos.nemesis import FAULTS, chosen_faults
from scripts.tidelock_scripts.chaos.run import ChaosOptions, ChaosReport, run_chaos
from scripts.tidelock_scripts.chaos.workloads import MIX, WORKLOADS, chosen_workloads
from scripts.tidelock_scripts.local_cluster import DEFAULT_DATA_DIR, ClusterError
from scripts.tidelock_scripts.machine import describe_machine
from scripts.tidelock_scripts.terminal import Terminal

_SHOWN_FINDINGS = 3
"""Of each workload."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    terminal = Terminal()
    data_dir = options.data or DEFAULT_DATA_DIR / f"chaos-{options.seed}-{os.getpid()}"
    names = [name for name in options.faults.split(",") if name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun_at = time.monotonic()
    terminal.line(
        f"{options.nodes} nodes, {options.minutes:g} minutes, seed {options.seed}, "
        f"workload {options.workload}, faults {', '.join(sorted(chosen_faults(names)))}"
    )
    try:
        report = asyncio.run(
            run_chaos(
                ChaosOptions(
                    seconds=options.minutes * 60,
                    seed=options.seed,
                    faults=names,
                    data_dir=data_dir,
                    workloads=chosen_workloads(options.workload),
                    nodes=options.nodes,
                    base_port=options.base_port,
                ),
                terminal,
            )
        )
    except ClusterError as error:
        print(f"scripts/chaos: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("scripts/chaos: interrupted; the nodes are stopped and gone", file=sys.stderr)
        return 130
    _print(report, terminal, data_dir, time.monotonic() - begun_at)
    if options.json:
        options.json.write_bytes(_as_json(report))
    return 0 if report.passed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Run real nodes under faults and load, and check what clients saw.",
    )

    def fault_names(text: str) -> str:
        try:
            if not chosen_faults([name for name in text.split(",") if name]):
                raise argparse.ArgumentTypeError("name at least one fault")
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        return text

    groups = ",".join(FAULTS)
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N", help="default 1")
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(1 << 31),
        metavar="S",
        help="choose the same faults, victims and lengths again; default: a new one",
    )
    parser.add_argument(
        "--faults", type=fault_names, default=groups, metavar="F,F", help=f"default {groups}"
    )
    parser.add_argument(
        "--workload",
        choices=(*WORKLOADS, MIX),
        default=MIX,
        metavar="NAME",
        help=f"what clients do: {', '.join(WORKLOADS)}; default: {MIX}, all of them",
    )
    parser.add_argument("--nodes", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--data", type=Path, metavar="DIR", help="default: below .tidelock/")
    parser.add_argument("--base-port", type=int, metavar="P", help="default: a free range")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    return parser


def _print(report: ChaosReport, terminal: Terminal, data_dir: Path, took_s: float) -> None:
    terminal.line()
    terminal.table(
        ["fault", "times"],
        [[name, str(count)] for name, count in sorted(report.faults.items())],
    )
    terminal.line()
    terminal.table(
        ["round", "workload", "acknowledged", "refused", "unknown", "reads", "violations"],
        [
            [
                done.name,
                each.what,
                *(
                    str(each.figures.get(name, 0))
                    for name in ("acknowledged", "refused", "unknown", "reads")
                ),
                str(len(each.violations)),
            ]
            for done in report.rounds
            for each in done.workloads
        ],
    )
    terminal.line()
    if report.passed:
        terminal.line(terminal.good(f"passed in {took_s:.0f} s: no violation"))
        return
    findings = report.findings()
    shown = report.findings(of_each=_SHOWN_FINDINGS)
    for finding in shown:
        terminal.line(f"- {finding}")
    if len(findings) > len(shown):
        terminal.line(f"  and {len(findings) - len(shown)} more")
    terminal.line(terminal.bad(f"FAILED with seed {report.seed}"))
    terminal.line(f"data, logs and the failed round's history are in {data_dir}")


def _as_json(report: ChaosReport) -> bytes:
    document = {"machine": describe_machine(), "passed": report.passed, "report": report}
    return msgspec.json.format(msgspec.json.encode(document)) + b"\n"


if __name__ == "__main__":
    sys.exit(main())
