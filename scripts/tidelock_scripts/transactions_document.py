"""The parts of docs/TRANSACTIONS.md that follow from the program: diagrams, tables, limits.

`python -m scripts.tidelock_scripts.transactions_document` writes them anew; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from api import branches, row_keys, steps, transactions
from statemachine.transactions import (
    committing,
    desk,
    driving,
    incidents,
    locking,
    participation,
    references,
    row_locks,
)
from statemachine.transactions.decisions import can_be_forced
from statemachine.transactions.fence import FENCE, Phase, State, Step
from statemachine.transactions.statuses import (
    BRANCH_CODES,
    DRIVEN,
    ENDED,
    FAILED,
    GLOBAL_CODES,
    BranchStatus,
    GlobalStatus,
    Mode,
)
from statemachine.transactions.transitions import (
    BRANCH_TRANSITIONS,
    GLOBAL_TRANSITIONS,
    BranchInput,
    GlobalInput,
    after,
)

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "TRANSACTIONS.md"

_PART: Final = re.compile(
    r"(?P<begin><!-- begin (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL
)

_OPERATED: Final = frozenset(
    {
        GlobalInput.RESUME,
        GlobalInput.FORCE_COMMIT,
        GlobalInput.FORCE_ROLLBACK,
        GlobalInput.FORGET,
        GlobalInput.STOP,
    }
)

_PHASE_ONE: Final = frozenset({BranchInput.DONE, BranchInput.FAILED, BranchInput.WITHDRAW})
_COMMIT: Final = frozenset(
    {BranchInput.COMMITTED, BranchInput.COMMIT_RETRY, BranchInput.COMMIT_REFUSED}
)
_ROLLBACK: Final = frozenset(
    {BranchInput.ROLLED_BACK, BranchInput.ROLLBACK_RETRY, BranchInput.ROLLBACK_REFUSED}
)
_XA: Final = frozenset({BranchInput.READ_ONLY, BranchInput.COMMIT_NOTA, BranchInput.ROLLBACK_NOTA})

INPUTS: Final[Mapping[Mode, frozenset[BranchInput]]] = {
    Mode.AT: _PHASE_ONE | _COMMIT | _ROLLBACK | {BranchInput.READ_ONLY},
    Mode.XA: _PHASE_ONE | _COMMIT | _ROLLBACK | _XA,
    Mode.TCC: _PHASE_ONE | _COMMIT | _ROLLBACK,
    Mode.SAGA: _PHASE_ONE | {BranchInput.COMMITTED} | _ROLLBACK,
    Mode.LCN: _PHASE_ONE | _COMMIT | _ROLLBACK,
    Mode.TXC: _PHASE_ONE | _COMMIT | _ROLLBACK | {BranchInput.READ_ONLY},
    Mode.MESSAGE: frozenset({BranchInput.DONE, BranchInput.WITHDRAW, BranchInput.COMMITTED}),
}
"""What can happen to branches of a mode."""

_ASKED_AGAIN: Final = frozenset(
    {
        BranchStatus.PHASE_TWO_COMMIT_FAILED_UNRETRYABLE,
        BranchStatus.PHASE_TWO_ROLLBACK_FAILED_UNRETRYABLE,
    }
)
"""What follows only when an operator asks for another try: it is as before, and not drawn."""


def rewritten(text: str) -> str:
    """Return the document with its parts as they must be.

    Raises:
        KeyError: a part is named that there is not.
    """
    return _PART.sub(
        lambda found: f"{found['begin']}\n{PARTS[found['name']]().strip()}\n\n{found['end']}", text
    )


def global_diagram() -> str:
    """Return what becomes of a transaction by itself."""
    rows = (
        (before.value, then.value, happens.value)
        for (before, happens), then in GLOBAL_TRANSITIONS.items()
        if happens not in _OPERATED and before is not then
    )
    return _diagram(GlobalStatus.BEGIN.value, rows, [each.value for each in sorted(ENDED)])


def branch_diagram(mode: Mode) -> str:
    """Return what becomes of a branch of a mode."""
    wanted = INPUTS[mode]
    rows = [
        (before.value, then.value, happens.value)
        for (before, happens), then in BRANCH_TRANSITIONS.items()
        if happens in wanted and before is not then and _happens_to(mode, before, happens)
    ]
    reached = {BranchStatus.REGISTERED.value}
    while more := {then for before, then, _ in rows if before in reached} - reached:
        reached |= more
    rows = [row for row in rows if row[0] in reached]
    left = {before for before, _, _ in rows}
    return _diagram(BranchStatus.REGISTERED.value, rows, sorted(reached - left))


def _happens_to(mode: Mode, before: BranchStatus, happens: BranchInput) -> bool:
    """A registered compensation stands for itself; no other branch is committed unreported."""
    if before is BranchStatus.REGISTERED and happens in _COMMIT | _XA - {BranchInput.READ_ONLY}:
        return mode is Mode.SAGA
    return before not in _ASKED_AGAIN


def _diagram(first: str, rows: Iterable[tuple[str, str, str]], last: Iterable[str]) -> str:
    arrows: dict[tuple[str, str], list[str]] = {}
    for before, then, happens in rows:
        arrows.setdefault((before, then), []).append(happens)
    lines = [f"    {before} --> {then}: {' / '.join(by)}" for (before, then), by in arrows.items()]
    ends = [f"    {each} --> [*]" for each in last]
    return "\n".join(
        ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}", *lines, *ends, "```"]
    )


def operator_table() -> str:
    """Return what each action of an operator does, by status."""
    rows = [["status", *(action.value for action in transactions.Action)]]
    for status in GlobalStatus:
        effects = [_effect(status, action.value) for action in transactions.Action]
        rows.append([f"`{status.value}`", *effects])
    return _table(rows)


def _effect(status: GlobalStatus, action: str) -> str:
    if action in ("RETRY_NOW", "START_RETRY", "STOP_RETRY"):
        return _retry_effect(status, action)
    if not can_be_forced(status, action):
        return "–"
    then = after(status, GlobalInput(action.lower().replace("_", " ")))
    assert then is not None
    return f"→ `{then.value}`"


def _retry_effect(status: GlobalStatus, action: str) -> str:
    if status in FAILED:
        resumed = after(status, GlobalInput.RESUME)
        assert resumed is not None
        return "stays" if action == "STOP_RETRY" else f"→ `{resumed.value}`"
    if status in DRIVEN or status is GlobalStatus.BEGIN:
        done = {"STOP_RETRY": "calls nobody any more"}.get(action, "calls again at once")
        return f"{done}¹" if status is GlobalStatus.BEGIN else done
    return "–"


def status_table() -> str:
    """Return the statuses with Seata's codes."""
    rows = [["code", "transaction", "branch"]]
    by_code = {code: status for status, code in GLOBAL_CODES.items()}
    branch_by_code = {code: status for status, code in BRANCH_CODES.items()}
    for code in range(max(*by_code, *branch_by_code) + 1):
        cells = (by_code.get(code), branch_by_code.get(code))
        rows.append([str(code), *(f"`{each.value}`" if each else "" for each in cells)])
    return _table(rows)


def fence_table() -> str:
    """Return what the fence says, by where the branch stands."""
    steps_of = [(step, phase) for step in Step for phase in Phase]
    rows = [["", *(f"{step.value} {phase.value}" for step, phase in steps_of)]]
    for state in (None, *State):
        cells = []
        for step, phase in steps_of:
            passed = FENCE.get((state, step, phase))
            if passed is None:
                cells.append("`BRANCH_NOT_TRIED`")
                continue
            then, verdict = passed
            moves = f" → {then.value}" if then is not state else ""
            cells.append(f"{verdict.value}{moves}")
        rows.append(["nothing yet" if state is None else state.value, *cells])
    return _table(rows)


def limit_table() -> str:
    """Return what is bounded, and by how much."""
    limits: list[tuple[str, int, str]] = [
        ("transactions under way", desk.GREATEST_GLOBALS, "`TOO_MANY_TRANSACTIONS`"),
        ("branches of a transaction", participation.GREATEST_BRANCHES, "`INVALID_COMMAND`"),
        ("rows of one request", locking.GREATEST_LOCKS, "names the list"),
        ("rows locked in all", row_locks.GREATEST_HELD, "`LOCK_TABLE_FULL`"),
        ("branches that share a row", row_locks.GREATEST_HOLDERS, "`LOCK_CONFLICT`"),
        ("requests for further rows of a branch", row_locks.GREATEST_TAKINGS, "`LOCK_TABLE_FULL`"),
        ("requests that wait for one row", row_locks.GREATEST_QUEUE, "`LOCK_QUEUE_FULL`"),
        ("requests of one transaction that wait", locking.GREATEST_WAITS, "`LOCK_QUEUE_FULL`"),
        ("requests that wait for one end", committing.GREATEST_WAITING, "answered at once"),
        ("parts of a key", row_keys.GREATEST_PARTS, "names the key"),
        ("characters of a part of a key", row_keys.GREATEST_PART_LENGTH, "names the part"),
        ("bytes of a resource or table", row_keys.GREATEST_RESOURCE_LENGTH, "names the field"),
        ("bytes of `applicationData`", branches.GREATEST_DATA_BYTES, "413"),
        ("bytes of a step's `payload`", steps.GREATEST_PAYLOAD_BYTES, "413"),
        ("bytes of a request in all, encoded", 1 << 20, "413"),
        ("bytes of a step's result", driving.GREATEST_RESULT_BYTES, "left out, and said"),
        ("references in a payload", references.GREATEST_REFERENCES, "names the payload"),
        ("bytes of a payload with its references", references.GREATEST_RESOLVED_BYTES,
         "the step fails"),
        ("characters of a URL", branches.GREATEST_URL_LENGTH, "names the field"),
        ("`timeoutMs` of a transaction", transactions.GREATEST_TIMEOUT_MS, "names the field"),
        ("`waitMs`", branches.GREATEST_WAIT_MS, "names the field"),
        ("failures in `…/exceptions`", incidents.GREATEST_INCIDENTS, "the oldest go"),
    ]  # fmt: skip
    rows = [["what", "at most", "beyond it"]]
    rows += [[what, f"{most:,}", beyond] for what, most, beyond in limits]
    return _table(rows)


def _table(rows: list[list[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _branch_part(mode: Mode) -> Callable[[], str]:
    return lambda: branch_diagram(mode)


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "global-diagram": global_diagram,
    **{f"{mode.value.lower()}-diagram": _branch_part(mode) for mode in Mode},
    "operator-table": operator_table,
    "status-table": status_table,
    "fence-table": fence_table,
    "limit-table": limit_table,
}


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(rewritten(text), encoding="utf-8")


if __name__ == "__main__":
    main()
