"""Transactions and branches as DTM shows them: empty fields are left out, times are RFC 3339."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Final

import msgspec

from statemachine import keys
from statemachine.hybrid_clock import LOGICAL_BITS
from statemachine.positions import Position
from statemachine.state import load_state
from statemachine.store import Reader
from statemachine.transactions.dtm_options import (
    FAILED,
    PREPARED,
    SUCCEED,
    DtmOptions,
    options_of,
    reason_of,
    status_of,
    trans_type_of,
    xid_of,
)
from statemachine.transactions.dtm_progress import Progress, get_progresses
from statemachine.transactions.messages import QUESTION
from statemachine.transactions.planning import Program
from statemachine.transactions.rows import (
    Branch,
    Global,
    Happening,
    get_branches,
    get_global,
    get_timeline,
)
from statemachine.transactions.statuses import BranchStatus, Mode

GREATEST_LOOK: Final = 5_000
"""Transactions that one listing looks at; whoever wants more goes on from its position."""

_PLACE_BITS: Final = 16
_POSITION: Final = re.compile(r"[0-9]{1,15}\.[0-9]{1,9}")

_DONE: Final = (BranchStatus.PHASE_ONE_DONE, BranchStatus.PHASE_TWO_COMMITTED)


class DtmObject(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A transaction."""

    id: int
    create_time: str
    update_time: str
    concurrent: bool
    gid: str = ""
    trans_type: str = ""
    status: str = ""
    query_prepared: str = ""
    protocol: str = ""
    finish_time: str = ""
    rollback_time: str = ""
    result: str = ""
    rollback_reason: str = ""
    options: str = ""
    custom_data: str = ""
    next_cron_interval: int = 0
    next_cron_time: str = ""
    wait_result: bool = False
    timeout_to_fail: int = 0
    request_timeout: int = 0
    retry_interval: int = 0
    retry_limit: int = 0
    retry_count: int = 0
    branch_headers: dict[str, str] = msgspec.field(default_factory=dict)


class DtmBranchObject(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One operation of a branch."""

    id: int
    create_time: str
    update_time: str
    gid: str = ""
    url: str = ""
    bin_data: str = ""
    branch_id: str = ""
    op: str = ""
    status: str = ""
    finish_time: str = ""
    rollback_time: str = ""


class Shown(msgspec.Struct):
    """The answer to `query`."""

    transaction: DtmObject | None
    branches: list[DtmBranchObject]


class Listing(msgspec.Struct):
    """The answer to `all`."""

    transactions: list[DtmObject]
    next_position: str


class Wanted(msgspec.Struct, frozen=True):
    """Which transactions a listing has. Empty and 0: any."""

    gid: str = ""
    status: str = ""
    trans_type: str = ""
    from_ms: int = 0
    to_ms: int = 0


def show(reader: Reader, gid: str) -> Shown:
    """Return a transaction with its branches; None and no branches for one that is not known."""
    row = get_global(reader, xid_of(gid))
    if row is None:
        return Shown(None, [])
    return Shown(transaction_of(reader, row), branches_of(reader, row))


def list_transactions(reader: Reader, wanted: Wanted, position: str, limit: int) -> Listing:
    """Return the newest first. `position` is a listing's `next_position`, empty for the first.

    Raises:
        ValueError: it is none.
    """
    if wanted.gid:
        row = get_global(reader, xid_of(wanted.gid))
        found = row is not None and _is_wanted(row, wanted)
        return Listing([transaction_of(reader, row)] if row is not None and found else [], "")
    stop = keys.stop_of(keys.BEGUN)
    if position:
        if _POSITION.fullmatch(position) is None:
            raise ValueError(f"{position[:40]!r} is no position")
        entry, _, place = position.partition(".")
        stop = keys.BEGUN + keys.pack_event(int(entry), int(place))
    begun = reader.scan(keys.BEGUN, stop, limit=GREATEST_LOOK, reverse=True)
    listed: list[DtmObject] = []
    last = ""
    for key, xid in begun:
        row = get_global(reader, xid.decode())
        last = "{}.{}".format(*keys.unpack_event(key[len(keys.BEGUN) :]))
        if row is not None and _is_wanted(row, wanted):
            listed.append(transaction_of(reader, row))
            if len(listed) == limit:
                break
    ended = len(listed) < limit and len(begun) < GREATEST_LOOK
    return Listing(listed, "" if ended else last)


def _is_wanted(row: Global, wanted: Wanted) -> bool:
    return (
        wanted.status in ("", status_of(row.status, submitted=row.submitted))
        and wanted.trans_type in ("", trans_type_of(row))
        and row.begun_ms >= wanted.from_ms
        and (not wanted.to_ms or row.begun_ms <= wanted.to_ms)
    )


def transaction_of(reader: Reader, row: Global) -> DtmObject:
    """Return one transaction."""
    options = options_of(row)
    status = status_of(row.status, submitted=row.submitted)
    shown = DtmObject(
        id=_id_of(row.begun),
        create_time=_time(row.begun_ms),
        update_time=_time(max(row.begun_ms, row.decided_ms, row.ended_ms)),
        concurrent=options.concurrent,
        gid=options.gid,
        trans_type=trans_type_of(row),
        status=status,
        query_prepared=options.query_prepared,
        protocol=options.protocol,
        result=options.result,
        rollback_reason=reason_of(row),
        options=_options_text(options),
        custom_data=options.custom_data,
        wait_result=options.wait_result,
        timeout_to_fail=options.timeout_to_fail,
        request_timeout=options.request_timeout,
        retry_interval=options.retry_interval,
        retry_limit=options.retry_limit,
        branch_headers=dict(options.branch_headers),
    )
    if status == SUCCEED:
        shown.finish_time = _time(row.ended_ms)
    elif status == FAILED:
        shown.rollback_time = _time(row.ended_ms)
    elif row.due_ms >= 0:
        _show_next(reader, row, shown)
    return shown


def _show_next(reader: Reader, row: Global, shown: DtmObject) -> None:
    """Say when something is done next, and how often that was in vain before."""
    state = load_state(reader)
    left_ms = max(row.due_ms - state.elapsed_ms, 0)
    shown.next_cron_time = _time(state.wall_ms + left_ms)
    branches = get_branches(reader, row.xid)
    again = max(branches, key=lambda branch: branch.attempts, default=None)
    if again is not None:
        rule = again.retry
        doubled = rule.interval_ms << min(again.attempts, 20)
        shown.next_cron_interval = min(doubled, rule.greatest_interval_ms) // 1_000
        shown.retry_count = again.attempts


def _options_text(options: DtmOptions) -> str:
    said = {
        name: value
        for name in ("wait_result", "timeout_to_fail", "request_timeout", "retry_interval")
        if (value := getattr(options, name))
    }
    if options.branch_headers:
        said["branch_headers"] = dict(options.branch_headers)
    said["concurrent"] = options.concurrent
    if options.retry_limit:
        said["retry_limit"] = options.retry_limit
    return msgspec.json.encode(said).decode()


# --- branches


def branches_of(reader: Reader, row: Global) -> list[DtmBranchObject]:
    """Return the operations of each branch as DTM stores them: what undoes before what does."""
    gid = options_of(row).gid
    if row.program == Program.WORKFLOW:
        return progresses_of(reader, row)
    done: dict[int, dict[str, int]] = {}
    for line in get_timeline(reader, row.xid):
        if line.branch_id:
            done.setdefault(line.branch_id, {})[line.event] = _wall_ms(line)
    branches = [each for each in get_branches(reader, row.xid) if each.name != QUESTION]
    if row.program == Program.SAGA:
        branches.sort(key=lambda branch: (len(branch.name), branch.name))
    return [
        operation
        for branch in branches
        for operation in _operations(gid, row, branch, done.get(branch.branch_id, {}))
    ]


def progresses_of(reader: Reader, row: Global) -> list[DtmBranchObject]:
    """Return what was recorded of a workflow's steps."""
    gid = options_of(row).gid
    return [
        _progress_of(gid, row, number, each)
        for number, each in enumerate(get_progresses(reader, row.xid))
    ]


def _progress_of(gid: str, row: Global, number: int, progress: Progress) -> DtmBranchObject:
    return DtmBranchObject(
        id=_id_of(row.begun) + number + 1,
        create_time=_time(progress.at_ms),
        update_time=_time(progress.at_ms),
        gid=gid,
        bin_data=base64.b64encode(progress.data).decode(),
        branch_id=progress.branch_id,
        op=progress.op,
        status=progress.status,
    )


def _operations(
    gid: str, row: Global, branch: Branch, done: dict[str, int]
) -> list[DtmBranchObject]:
    calls = branch.calls
    forward_at = next((done[status] for status in _DONE if status in done), 0)
    failed_at = done.get(BranchStatus.PHASE_ONE_FAILED, 0)
    committed_at = done.get(BranchStatus.PHASE_TWO_COMMITTED, 0)
    undone_at = done.get(BranchStatus.PHASE_TWO_ROLLED_BACK, 0)
    match branch.mode:
        case Mode.MESSAGE:
            named = [("action", calls.forward, forward_at, 0)]
        case Mode.TCC:
            named = [
                ("cancel", calls.rollback, undone_at, 0),
                ("confirm", calls.commit, committed_at, 0),
            ]
        case Mode.XA:
            named = [
                ("rollback", calls.rollback, undone_at, 0),
                ("commit", calls.commit, committed_at, 0),
            ]
        case _:
            named = [
                ("compensate", calls.rollback, undone_at, 0),
                ("action", calls.forward, forward_at, failed_at),
            ]
    return [
        DtmBranchObject(
            id=(branch.branch_id << 1) + number,
            create_time=_time(branch.registered_ms),
            update_time=_time(max(branch.registered_ms, succeeded_ms, failed_ms)),
            gid=gid,
            url=url or "",
            bin_data=base64.b64encode(branch.payload).decode(),
            branch_id=branch.name or str(branch.branch_id),
            op=op,
            status=FAILED if failed_ms else SUCCEED if succeeded_ms else PREPARED,
            finish_time=_time(succeeded_ms or failed_ms) if succeeded_ms or failed_ms else "",
        )
        for number, (op, url, succeeded_ms, failed_ms) in enumerate(named)
    ]


def _wall_ms(line: Happening) -> int:
    return line.hlc >> LOGICAL_BITS


def _id_of(begun: Position) -> int:
    return (begun.entry << _PLACE_BITS) + begun.place


def _time(wall_ms: int) -> str:
    at = datetime.fromtimestamp(wall_ms / 1_000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
