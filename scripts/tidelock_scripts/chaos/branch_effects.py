"""What participants of transactions did, and whether it belongs together.

A participant is idempotent, as it must be: it keeps a fence on each branch, so that what comes
twice is done once, and what comes after its compensation not at all. A step is named `name<other`
when it stands on another one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

DONE = 200
REFUSED = 409


@dataclass(slots=True)
class BranchEffect:
    """What was done for one branch."""

    done: bool = False
    undone: bool = False
    confirmed: bool = False
    fenced: bool = False
    """It was rolled back, or asked about: what comes now is refused."""

    @property
    def stands(self) -> bool:
        return self.done and not self.undone


@dataclass(slots=True)
class BranchEffects:
    """All of them, by transaction and name."""

    of: dict[str, dict[str, BranchEffect]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    """What should not have been asked."""

    def call(self, xid: str, name: str, action: str) -> int:
        """Do what is asked: `do`, `refuse`, `commit`, `undo` or `query`; return the status."""
        effect = self._effect(xid, name)
        match action:
            case "do":
                return self._do(xid, name, effect)
            case "commit":
                if not effect.stands:
                    self._break(f"{name} of {xid} is confirmed and was never tried")
                effect.confirmed = True
            case "undo":
                self._check_undone_after(xid, name)
                if effect.confirmed:
                    self._break(f"{name} of {xid} is cancelled after it was confirmed")
                effect.undone = effect.fenced = True
            case "query":
                # A question closes the door: work that was not done by now will not be.
                effect.fenced = True
                return DONE if effect.stands else REFUSED
            case _:
                return REFUSED
        return DONE

    def work(self, xid: str, name: str) -> bool:
        """Do something on one's own; False when it is too late for that."""
        return self._do(xid, name, self._effect(xid, name)) == DONE

    def found_wrong(
        self, xid: str, *, committed: bool, confirms: bool, names: Iterable[str]
    ) -> str | None:
        """Return what does not fit the end of a transaction, of which `names` must have been done
        when it is committed."""
        called = self.of.get(xid, {})
        for name in sorted({*called, *names} if committed else called):
            effect = called.get(name, BranchEffect())
            if effect.stands != committed:
                return f"{name} did {effect}"
            if committed and confirms and not effect.confirmed:
                return f"{name} was not confirmed: {effect}"
        return None

    def _effect(self, xid: str, name: str) -> BranchEffect:
        return self.of.setdefault(xid, {}).setdefault(name, BranchEffect())

    def _do(self, xid: str, name: str, effect: BranchEffect) -> int:
        if effect.fenced:
            return REFUSED
        self._check_order(xid, name)
        effect.done = True
        return DONE

    def _check_order(self, xid: str, name: str) -> None:
        """A step runs when the one that it stands on is done."""
        _, _, before = name.partition("<")
        others = self.of[xid].items()
        if before and not any(e.done for other, e in others if _step(other) == before):
            self._break(f"{name} of {xid} ran before {before}")

    def _check_undone_after(self, xid: str, name: str) -> None:
        """A step is undone when nothing stands any more that stood on it."""
        for other, effect in self.of[xid].items():
            if other.partition("<")[2] == _step(name) and effect.stands:
                self._break(f"{name} of {xid} was undone before {other}")

    def _break(self, what: str) -> None:
        self.broken.append(what)


def _step(name: str) -> str:
    return name.partition("<")[0]
