"""Which branch a call is about, in the words of this cluster's protocol or of DTM's.

This cluster says it in headers (docs/BRANCH_CALLS.md of the repository), DTM in the query of the
URL: `gid`, `trans_type`, `branch_id`, `op`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Self

import msgspec

from tidelock.errors import TidelockError
from tidelock.propagation.headers import XID

BRANCH_ID: Final = "Tidelock-Branch-Id"
OPERATION: Final = "Tidelock-Operation"
STEP: Final = "Tidelock-Step"
EPOCH: Final = "Tidelock-Epoch"

NATIVE: Final = "tidelock"
"""The type of transactions of this cluster's own protocol, which does not name one."""

MESSAGE: Final = "msg"
MESSAGE_BRANCH: Final = "00"
"""The branch that stands for the sender's own work, as in DTM."""

_GREATEST_GID: Final = 128
_GREATEST_WORD: Final = 45
_WORD: Final = re.compile(rf"[!-~]{{1,{_GREATEST_WORD}}}")
_GID: Final = re.compile(rf"[!-~]{{1,{_GREATEST_GID}}}")

_OPERATIONS: Final = {
    "FORWARD": "forward",
    "COMMIT": "commit",
    "ROLLBACK": "rollback",
    "QUERY": MESSAGE,
}
_ORIGINS: Final = {
    NATIVE: {"rollback": "forward"},
    "": {"cancel": "try", "compensate": "action", "rollback": "action"},
}
"""What an operation undoes: of this cluster's protocol, and of DTM's."""


class BranchRequestError(TidelockError):
    """A request names no branch, or in words that cannot be meant: answer it 400."""


class Branch(msgspec.Struct, frozen=True, kw_only=True):
    """A branch, and what is asked of it."""

    trans_type: str
    """saga, tcc, xa, msg or workflow of DTM; `NATIVE`."""
    gid: str
    """The transaction; the xid of this cluster."""
    branch_id: str
    op: str
    """What is asked. Of DTM: try, confirm, cancel, action, compensate, commit, rollback, msg. Of
    this cluster: forward, commit, rollback, and `MESSAGE` for its QUERY."""
    epoch: int = 0
    """The term of the leader that calls. DTM has none."""

    def __post_init__(self) -> None:
        for name, value, form in (
            ("trans_type", self.trans_type, _WORD),
            ("gid", self.gid, _GID),
            ("branch_id", self.branch_id, _GID),
            ("op", self.op, _WORD),
        ):
            if form.fullmatch(value) is None:
                longest = _GREATEST_GID if form is _GID else _GREATEST_WORD
                raise BranchRequestError(
                    f"{name} is 1 to {longest} visible characters of ASCII, not {value[:150]!r}"
                )

    @property
    def origin(self) -> str:
        """The operation that this one undoes; empty when it undoes none."""
        known = _ORIGINS[NATIVE if self.trans_type == NATIVE else ""]
        return known.get(self.op, "")

    @property
    def is_query(self) -> bool:
        """Whether the question is what became of a message's work."""
        return self.op == MESSAGE and self.branch_id == MESSAGE_BRANCH

    @classmethod
    def of_request(cls, query: Mapping[str, str], headers: Mapping[str, str]) -> Self:
        """Return the branch that a request is about, whoever sent it.

        `query` are the parameters of the URL, `headers` those of the request, found in any case.

        Raises:
            BranchRequestError: it names none.
        """
        found = {name.lower(): value for name, value in headers.items()}
        if OPERATION.lower() in found:
            return cls._of_headers(found)
        missing = [name for name in ("gid", "trans_type", "branch_id", "op") if not query.get(name)]
        if missing:
            raise BranchRequestError(
                f"the request names no branch: it has neither the header {OPERATION} nor, as DTM "
                f"has them, the parameters {', '.join(missing)}"
            )
        return cls(
            trans_type=query["trans_type"],
            gid=query["gid"],
            branch_id=query["branch_id"],
            op=query["op"],
        )

    @classmethod
    def _of_headers(cls, headers: Mapping[str, str]) -> Self:
        def header(name: str) -> str:
            value = headers.get(name.lower(), "")
            if not value:
                raise BranchRequestError(f"the request names no branch: {name} is missing")
            return value

        op = _OPERATIONS.get(header(OPERATION))
        if op is None:
            raise BranchRequestError(
                f"{OPERATION} is one of {', '.join(_OPERATIONS)}, not {header(OPERATION)[:80]!r}"
            )
        xid, epoch = header(XID), headers.get(EPOCH.lower(), "0")
        if not (epoch.isascii() and epoch.isdecimal() and len(epoch) < 20):
            raise BranchRequestError(f"{EPOCH} is a number, not {epoch[:80]!r}")
        if op == MESSAGE:
            return cls(
                trans_type=MESSAGE, gid=xid, branch_id=MESSAGE_BRANCH, op=op, epoch=int(epoch)
            )
        return cls(trans_type=NATIVE, gid=xid, branch_id=header(BRANCH_ID), op=op, epoch=int(epoch))


def message_branch(xid: str) -> Branch:
    """Return the branch of the work that a message tells of.

    Raises:
        BranchRequestError: it is no xid.
    """
    return Branch(trans_type=MESSAGE, gid=xid, branch_id=MESSAGE_BRANCH, op=MESSAGE)
