"""Telling somebody that a branch does not do what was decided, again and again.

An alert is a call like any other: to a host that is listed, once, and lost when it fails. What it
tells stands in the transaction, too.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from typing import Final

import msgspec

from node.delivery.calls import Answer, BranchRequest, Reply, Sender, Verdict
from statemachine.transactions.dtm_options import options_of, status_of
from statemachine.transactions.rows import DTM, Branch, Global

logger = logging.getLogger(__name__)

ALERTED_AFTER: Final = 3
"""Repetitions in vain: the interval has doubled so often."""

GREATEST_QUEUED: Final = 1_000


class _Alert(msgspec.Struct, rename="camel"):
    xid: str
    status: str
    branch: int
    error: str
    retry_count: int


class _DtmAlert(msgspec.Struct):
    """The same of a transaction of DTM's protocol, in its words."""

    gid: str
    status: str
    branch: str
    error: str
    retry_count: int


class Alerts:
    """Sends alerts to one URL, one after the other."""

    def __init__(self, sender: Sender, url: str) -> None:
        """An empty URL: nobody is told."""
        self._sender = sender
        self._url = url
        self._queue: deque[_Alert | _DtmAlert] = deque()
        self._sending = False
        self.counters: Counter[str] = Counter()

    def consider(self, row: Global, branch: Branch, attempts: int, answer: Answer) -> None:
        """Tell of this answer when it is one too many. `attempts` failed before it."""
        if not self._url or answer.verdict in (Verdict.DONE, Verdict.ONGOING):
            return
        undecided = row.status == "BEGIN"
        if attempts < ALERTED_AFTER and (undecided or answer.verdict is not Verdict.FAILED):
            return
        if len(self._queue) >= GREATEST_QUEUED:
            self.counters["dropped"] += 1
            return
        error = f"{answer.failure_type}: {answer.failure_message}"
        self._queue.append(_alert_of(row, branch, error, attempts + 1))
        self._send()

    def _send(self) -> None:
        if self._sending or not self._queue:
            return
        self._sending = True
        request = BranchRequest(
            url=self._url,
            headers=(("Content-Type", "application/json"),),
            body=msgspec.json.encode(self._queue.popleft()),
        )
        self._sender.send(request, lambda: True, self._sent)

    def _sent(self, reply: Reply) -> None:
        self._sending = False
        told = 200 <= reply.status < 300
        self.counters["sent" if told else "failed"] += 1
        if not told:
            why = reply.failure_message or f"it answered {reply.status}"
            logger.warning("an alert was not taken", extra={"why": why})
        self._send()


def _alert_of(row: Global, branch: Branch, error: str, retry_count: int) -> _Alert | _DtmAlert:
    if row.protocol != DTM:
        return _Alert(row.xid, row.status, branch.branch_id, error, retry_count)
    status = status_of(row.status, submitted=row.submitted)
    return _DtmAlert(options_of(row).gid, status, branch.name, error, retry_count)
