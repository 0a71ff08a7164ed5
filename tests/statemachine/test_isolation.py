"""The coordinator's part of isolation: every cell of the table in docs/TRANSACTIONS.md.

Who asks for a row is another transaction, at once or waiting, or a reader that wants it FOR
UPDATE.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from statemachine.outcomes import Applied, Outcome, Rejected, RejectionCode
from statemachine.transactions.row_locks import holder_of
from statemachine.transactions.statuses import DRIVEN
from tests.statemachine.building import code
from tests.statemachine.channels import Channels
from tests.statemachine.transacting import row

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "TRANSACTIONS.md"
HEADING = "### Rows that the cluster keeps for a branch"
MODES = ("AT", "TXC", "XA", "LCN", "TCC", "SAGA")
MOMENTS = (
    "undecided",
    "committing, not told",
    "committing, told",
    "committed",
    "commit failed",
    "rolling back, not told",
    "rolling back, told",
    "rolled back",
    "rollback failed",
)


def cells() -> list[tuple[str, str, str]]:
    """Return what the document says: mode, moment, and whether the row is kept or free."""
    _, _, text = DOCUMENT.read_text(encoding="utf-8").partition(HEADING)
    head, _, *rows = re.findall(r"^\|(.+)\|$", text.partition("\n## ")[0], re.MULTILINE)
    moments = [each.strip() for each in head.split("|")][1:]
    found = []
    for line in rows:
        mode, *says = (each.strip() for each in line.split("|"))
        found += [(mode, moment, said) for moment, said in zip(moments, says, strict=True)]
    return found


class Scene:
    """A transaction of two branches, of which the later one has the row; and one that wants it."""

    def __init__(self, mode: str) -> None:
        self.log = Channels()
        self.log.begin("x")
        self.log.begin("y")
        self.session = self.log.open()
        self.other = self.log.held(self.session, row(2), mode=mode)
        self.branch = self.log.held(self.session, row(1), mode=mode)

    def come_to(self, moment: str) -> None:
        log = self.log
        if moment.startswith("commit"):
            log.commit()
        elif moment.startswith("roll"):
            log.roll_back()
        done = "told" in moment and "not" not in moment
        ended = moment in ("committed", "rolled back")
        if done or ended:
            log.told(self.branch)
        if ended:
            log.told(self.other)
        if moment.endswith("failed"):
            log.told(self.branch, "FAILED")
            if log.row().status in DRIVEN:
                log.told(self.other)
        self._expect(moment)

    def _expect(self, moment: str) -> None:
        status = self.log.row().status
        if moment == "undecided":
            assert status == "BEGIN"
        elif "told" in moment:
            assert status in DRIVEN
        else:
            assert status == moment.upper().replace(" ", "_")

    def ask(self, *, wait_ms: int = 0) -> Outcome:
        return self.log.join(self.session, row(1), xid="y", mode="AT", wait_ms=wait_ms)


def test_the_table_has_every_mode_and_every_moment() -> None:
    assert [(mode, moment) for mode, moment, _ in cells()] == [
        (mode, moment) for mode in MODES for moment in MOMENTS
    ]
    assert {said for _, _, said in cells()} == {"kept", "free"}


@pytest.mark.parametrize(("mode", "moment", "said"), cells())
def test_another_transaction_is_given_the_row_or_told_who_has_it(
    mode: str, moment: str, said: str
) -> None:
    scene = Scene(mode)
    scene.come_to(moment)
    outcome = scene.ask()
    if said == "free":
        assert isinstance(outcome, Applied)
        return
    assert isinstance(outcome, Rejected)
    assert code(outcome) is RejectionCode.LOCK_CONFLICT
    assert outcome.holder is not None
    assert outcome.holder.xid == "x"  # type: ignore[union-attr]
    # Who meets a rollback may hold what that needs: it is to roll back and not to try again.
    assert outcome.retryable == (not moment.startswith("roll"))


@pytest.mark.parametrize(("mode", "moment", "said"), cells())
def test_who_waits_for_the_row_is_given_it_once_it_is_free(
    mode: str, moment: str, said: str
) -> None:
    scene = Scene(mode)
    pending = scene.ask(wait_ms=60_000)
    scene.come_to(moment)
    outcome = scene.log.settled(pending)
    assert (outcome is None) == (said == "kept")
    assert outcome is None or isinstance(outcome, Applied)


@pytest.mark.parametrize(("mode", "moment", "said"), cells())
def test_a_reader_for_update_is_told_whether_the_row_is_free(
    mode: str, moment: str, said: str
) -> None:
    scene = Scene(mode)
    scene.come_to(moment)
    holder = holder_of(scene.log.store, row(1), "")
    assert (holder is None) == (said == "free")
    # Its own transaction reads what it has locked.
    assert holder_of(scene.log.store, row(1), "x") is None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
def test_a_reader_for_update_of_two_rows_never_gets_one_before_and_one_after_the_decision(
    mode: str, commit: bool
) -> None:
    """It gets both or waits: while one branch is told and the other is not, one row is kept,
    unless the decision alone freed both."""
    scene = Scene(mode)
    scene.come_to("committing, told" if commit else "rolling back, told")
    free = [holder_of(scene.log.store, row(number), "") is None for number in (1, 2)]
    decided_alone = commit and mode in ("AT", "TXC")
    assert free == [True, decided_alone]
    scene.log.told(scene.other)
    assert [holder_of(scene.log.store, row(number), "") for number in (1, 2)] == [None, None]
