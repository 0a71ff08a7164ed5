"""`scripts/simulate`: run seeds, many at once, and replay one that failed."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from pathlib import Path

from tests.simulation.run import CLIENTS, Result, run_seed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Run the real engine under virtual time with faults, one schedule a seed.",
    )
    parser.add_argument(
        "--seeds", default="0..200", metavar="A..B", help="seeds A to B-1, or one seed"
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="virtual seconds of faults")
    parser.add_argument(
        "--clients",
        metavar="NAME,…",
        help=f"beside events and the oracle: some of {','.join(CLIENTS)}; default: the seed tells",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    arguments = parser.parse_args()
    mix = None
    if arguments.clients is not None:
        mix = tuple(name for name in arguments.clients.split(",") if name)
        unknown = [name for name in mix if name not in CLIENTS]
        if unknown:
            parser.error(f"there are no clients {unknown}; choose among {', '.join(CLIENTS)}")
    first, _, last = arguments.seeds.partition("..")
    seeds = range(int(first), int(last) if last else int(first) + 1)
    began = time.monotonic()
    results: list[Result] = []
    with multiprocessing.Pool(min(arguments.jobs, max(1, len(seeds)))) as pool:
        work = [(seed, arguments.seconds, mix) for seed in seeds]
        for result in pool.imap_unordered(_run, work):
            results.append(result)
            _show_progress(result, len(results), len(seeds))
    return _report(results, time.monotonic() - began, arguments.json)


def _run(work: tuple[int, float, tuple[str, ...] | None]) -> Result:
    return run_seed(*work)


def _show_progress(result: Result, done: int, of: int) -> None:
    if result.violation is not None:
        print(f"\rseed {result.seed}: {result.violation}", flush=True)
    if sys.stderr.isatty():
        print(f"\r{done} of {of} seeds", end="", file=sys.stderr, flush=True)


def _report(results: list[Result], wall_s: float, file: Path | None) -> int:
    failed = sorted(result.seed for result in results if result.violation is not None)
    counters: Counter[str] = Counter()
    for result in results:
        counters.update(result.counters)
    virtual_s = sum(result.virtual_s for result in results)
    print(
        f"{len(results)} seeds, {virtual_s:.0f} virtual seconds in {wall_s:.1f} s"
        f" ({virtual_s / max(wall_s, 1e-9):.0f} times real time), {len(failed)} violations"
    )
    for name, count in sorted(counters.items()):
        print(f"  {name:28} {count}")
    for seed in failed:
        print(f"replay: scripts/simulate --seeds {seed}")
    if file is not None:
        file.write_text(
            json.dumps(
                {
                    "seeds": len(results),
                    "virtualSeconds": virtual_s,
                    "wallSeconds": wall_s,
                    "violations": {
                        result.seed: result.violation for result in results if result.violation
                    },
                    "counters": dict(sorted(counters.items())),
                },
                indent=2,
            )
        )
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # Whoever read the output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
