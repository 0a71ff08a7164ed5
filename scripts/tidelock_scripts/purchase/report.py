"""What is shown of a purchase: the books before and after, and what happened in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from scripts.tidelock_scripts.purchase.books import Stand
from scripts.tidelock_scripts.purchase.purchases import PRICE, Event, Plan, Purchase, modes_of
from scripts.tidelock_scripts.purchase.wires import Call
from scripts.tidelock_scripts.terminal import Terminal

_HEADER = ("", "chairs in stock", "orders", "money of u-1")
_DETAIL_LENGTH = 100


def heading(plan: Plan) -> str:
    """Say what is about to be done."""
    modes = modes_of(plan.mode)
    within = f"mode {plan.mode}"
    if len(set(modes.values())) > 1:
        within += f" ({', '.join(f'{name} {mode}' for name, mode in modes.items())})"
    text = f"u-1 buys {plan.count} chairs for {plan.count * PRICE}, in {within}"
    if plan.fails:
        text += "; there is not so much money in the account"
    if plan.victim:
        text += f"; {_indefinite(plan)} is killed on the way"
    return text


def _indefinite(plan: Plan) -> str:
    return "the leader of the cluster" if plan.victim == "leader" else f"the service {plan.victim}"


def show(purchase: Purchase, terminal: Terminal) -> bool:
    """Print all of it; return whether it is as it must be."""
    _table(terminal, [("before", purchase.before)])
    terminal.line()
    rows = [[f"{at_ms:>6}", who, what] for at_ms, who, what in _happened(purchase)]
    terminal.table(["    ms", "who", "what"], rows)
    terminal.line()
    _table(terminal, [("before", purchase.before), ("after", purchase.after)])
    terminal.line()
    faults = purchase.faults()
    status = str(purchase.transaction["status"])
    outcome = "all of it was bought" if purchase.is_bought else "nothing was bought"
    terminal.line(terminal.strong(f"{status}: ") + f"{outcome} {_because(purchase)}".rstrip())
    left = ", ".join(f"{count} {what}" for what, count in purchase.left_behind.items())
    terminal.line(f"left behind: {left}")
    for fault in faults:
        terminal.line(terminal.bad(f"wrong: {fault}"))
    if not faults:
        terminal.line(terminal.good("all or nothing, and nothing left behind"))
    return not faults


def show_briefly(purchases: Sequence[Purchase], terminal: Terminal, margin: str) -> list[str]:
    """Print one line for each of several purchases; return what is not as it must be."""
    first = purchases[0].before
    rows = [[f"{margin}before", "", *_numbers(first)]]
    for purchase in purchases:
        what = f"{margin}{purchase.plan.count} chairs for {purchase.plan.count * PRICE}"
        rows.append([what, str(purchase.transaction["status"]), *_numbers(purchase.after)])
    terminal.table([f"{margin}u-1 buys", "the transaction is", *_HEADER[1:]], rows)
    return [fault for purchase in purchases for fault in purchase.faults()]


def _because(purchase: Purchase) -> str:
    reason = str(purchase.transaction["reason"])
    return f"({_shortened(reason)})" if reason and not purchase.is_bought else ""


def _table(terminal: Terminal, stands: Sequence[tuple[str, Stand]]) -> None:
    terminal.table(_HEADER, [[when, *_numbers(stand)] for when, stand in stands])


def _numbers(stand: Stand) -> list[str]:
    return [
        _beside(stand.stock, stand.set_aside, "set aside"),
        _beside(stand.orders, stand.pending, "pending"),
        _beside(stand.money, stand.held, "held"),
    ]


def _beside(number: int, reserved: int, how: str) -> str:
    return f"{number} and {reserved} {how}" if reserved else str(number)


def _happened(purchase: Purchase) -> Iterator[tuple[int, str, str]]:
    """Yield when, since the beginning, by whom, and what."""
    events = [
        *purchase.events,
        *(event for call in purchase.calls for event in _of_call(call)),
        *_of_cluster(purchase),
    ]
    events.sort(key=lambda event: event.at_ms)
    begun_ms = events[0].at_ms
    for event in events:
        yield event.at_ms - begun_ms, event.who, event.what


def _of_call(call: Call) -> Iterator[Event]:
    yield Event(call.began_ms, "business", f"calls {call.service}")
    said = f"answers {call.status}" if call.status else "gives no answer"
    detail = f": {_shortened(call.detail)}" if call.detail else ""
    yield Event(call.began_ms + round(call.took_ms), call.service, f"{said}{detail}")


def _of_cluster(purchase: Purchase) -> Iterator[Event]:
    """Yield what the coordinator wrote down, in its own words."""
    branches = {branch["branchId"]: branch for branch in purchase.transaction["branches"]}
    for line in purchase.transaction["timeline"]:
        at_ms, what = int(line["hlc"]["wallMs"]), str(line["event"])
        detail = f": {_shortened(line['detail'])}" if line["detail"] else ""
        branch = branches.get(line["branchId"])
        if branch is None:
            which = f" {purchase.xid}" if what == "BEGIN" else detail
            yield Event(at_ms, "cluster", f"{what}{which}")
        else:
            where = f"{branch['mode']} branch {line['branchId']}"
            yield Event(at_ms, str(branch["applicationId"]), f"{where} {what}{detail}")


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DETAIL_LENGTH else f"{line[: _DETAIL_LENGTH - 1]}…"
