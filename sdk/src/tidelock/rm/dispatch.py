"""Doing what the coordinator asks: whose resource it is, how much at a time, and once at a time.

A branch is asked one thing at a time; the same question that comes again while it is gone into is
answered with the first one's answer. Of each resource so many branches are called at once; others
wait in its lane, so that a database that hangs holds up nobody else. When too many wait, or the
process is about to end, a question is answered with "not now", and comes again.

Everything here is done by one loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Final

import msgspec

from tidelock.crash_points import reached
from tidelock.rm import failures
from tidelock.rm.messages import GREATEST_DETAIL, NOT_NOW, RESULTS, CallKind, Cleaning, Status
from tidelock.rm.resource import BranchCall, BranchStatus, PhaseTwoResult, Resource, Sweeping
from tidelock.rm.roster import Roster

CALLS_AT_ONCE: Final = 8
"""Of one resource. Each has a connection to its database, as a rule."""

GREATEST_WAITING: Final = 1_000
"""Of one resource."""

GREATEST_TASKS: Final = 5_000
"""Calls and answers under way. What a node asks beyond is left unanswered."""

_GREATEST_ASKERS: Final = 100

_log: Final = logging.getLogger(__name__)


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    kind: CallKind
    mode: str
    resource_id: str
    epoch: int
    calls: tuple[BranchCall, ...]
    """One; several of a `clean`, none of a `sweep`."""

    @property
    def branches(self) -> tuple[tuple[str, int], ...]:
        """Of which it is asked."""
        return tuple((call.xid, call.branch_id) for call in self.calls)

    @property
    def about(self) -> tuple[str, int]:
        """Of what one thing is asked at a time: the first branch, else the whole resource."""
        return self.branches[0] if self.calls else (f"{self.mode} {self.resource_id}", 0)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What it came to."""

    status: Status
    detail: str = ""
    not_found: bool = False


Asker = Callable[[Answer], Awaitable[None]]
"""Sends an answer to who asked. It raises nothing."""


class _Job:
    """A question that is gone into, or waits for its turn."""

    __slots__ = ("askers", "begun", "epoch", "question", "since")

    def __init__(self, question: Question, asker: Asker) -> None:
        self.question = question
        self.epoch = question.epoch
        """The greatest in which it was asked."""
        self.askers: deque[Asker] = deque([asker], _GREATEST_ASKERS)
        self.since = time.monotonic()
        self.begun = False

    def is_of(self, question: Question) -> bool:
        mine = self.question
        alike = mine.kind is question.kind and mine.about == question.about
        return alike and mine.branches == question.branches


class _Lane:
    """The jobs of one resource."""

    __slots__ = ("running", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Job] = deque()
        self.running = 0


class Dispatcher:
    """All jobs of a process."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._lanes: dict[tuple[str, str], _Lane] = {}
        self._of_branch: dict[tuple[str, int], deque[_Job]] = {}
        """The first is in its lane, the others follow it."""
        self._jobs: dict[_Job, None] = {}
        """All, the oldest first."""
        self.running = 0
        """Questions that are gone into."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._held = False
        self._closing = False
        self._epoch = 0
        """The greatest that was seen. The terms of leaders grow, so a smaller one is an old
        leader's, whichever branch it asks for."""
        self.results = {(kind, status): 0 for kind, known in RESULTS.items() for status in known}
        """Answers, by what was asked."""
        self.counts = Counter({"repeated": 0, "stale": 0, "errors": 0, "refused": 0})

    # --- taking questions

    def ask(self, question: Question, asker: Asker) -> None:
        """Go into a question as soon as it is its turn, and answer it."""
        if len(self._tasks) >= GREATEST_TASKS:
            return
        if question.epoch < self._epoch:
            self._refuse_stale(question, (asker,))
            return
        self._epoch = question.epoch
        if self._closing:
            self._refuse(question, (asker,), "the process ends")
            return
        following = self._of_branch.get(question.about, ())
        for job in following:
            if job.is_of(question):
                self.counts["repeated"] += 1
                job.epoch = max(job.epoch, question.epoch)
                job.askers.append(asker)
                return
        lane = self._lane(question)
        if len(lane.waiting) + len(following) >= GREATEST_WAITING:
            self._refuse(question, (asker,), f"{len(lane.waiting)} calls wait already")
            return
        self._queue(lane, _Job(question, asker))

    def decline(self, kind: CallKind, asker: Asker, why: str) -> None:
        """Answer what cannot be gone into."""
        if len(self._tasks) < GREATEST_TASKS:
            self.counts["refused"] += 1
            self._spawn(self._tell(kind, (asker,), _not_now(kind, why)))

    def _queue(self, lane: _Lane, job: _Job) -> None:
        self._jobs[job] = None
        jobs = self._of_branch.setdefault(job.question.about, deque())
        jobs.append(job)
        if len(jobs) == 1:
            lane.waiting.append(job)
            self._go_on(lane)

    # --- doing them

    def _go_on(self, lane: _Lane) -> None:
        while lane.waiting and lane.running < CALLS_AT_ONCE and not self._held:
            job = lane.waiting.popleft()
            job.begun = True
            lane.running += 1
            self.running += 1
            self._spawn(self._do(lane, job))

    async def _do(self, lane: _Lane, job: _Job) -> None:
        question = job.question
        try:
            if job.epoch < self._epoch:
                self.counts["stale"] += 1
                answer = _not_now(question.kind, _STALE)
            else:
                answer = await self._answer_of(question)
        finally:
            self._done(lane, job)
        await self._tell(question.kind, job.askers, answer)

    async def _answer_of(self, question: Question) -> Answer:
        resource = self._roster.find(question.mode, question.resource_id)
        if resource is None:
            self.counts["refused"] += 1
            what = f"{question.mode} {question.resource_id}"
            return _not_now(question.kind, f"this process has no {what}")
        reached("rm.before-call")
        try:
            answer = await _asked(resource, question)
        except Exception as error:
            self.counts["errors"] += 1
            xid, branch_id = question.about
            _log.error(
                "%s of branch %d of %s on %s failed and will be asked for again: %s (%s)",
                *(question.kind, branch_id, xid, question.resource_id),
                *(failures.told(error), failures.places(error)),
            )
            return _not_now(question.kind, failures.told(error))
        reached("rm.after-call")
        return answer

    def _done(self, lane: _Lane, job: _Job) -> None:
        lane.running -= 1
        self.running -= 1
        del self._jobs[job]
        branch = job.question.about
        jobs = self._of_branch[branch]
        jobs.remove(job)
        if jobs:
            next_lane = self._lane(jobs[0].question)
            next_lane.waiting.append(jobs[0])
            self._go_on(next_lane)
        else:
            del self._of_branch[branch]
        self._go_on(lane)
        if not lane.waiting and not lane.running:
            self._lanes.pop((job.question.mode, job.question.resource_id), None)

    def _lane(self, question: Question) -> _Lane:
        return self._lanes.setdefault((question.mode, question.resource_id), _Lane())

    async def _tell(self, kind: CallKind, askers: Iterable[Asker], answer: Answer) -> None:
        for asker in tuple(askers):
            self.results[kind, answer.status] += 1
            await asker(answer)
        reached("rm.after-answer")

    # --- not doing them

    def _refuse(self, question: Question, askers: Iterable[Asker], why: str) -> None:
        self.counts["refused"] += 1
        self._spawn(self._tell(question.kind, askers, _not_now(question.kind, why)))

    def _refuse_stale(self, question: Question, askers: Iterable[Asker]) -> None:
        self.counts["stale"] += 1
        self._spawn(self._tell(question.kind, askers, _not_now(question.kind, _STALE)))

    def hold(self) -> None:
        """Begin nothing more for now."""
        self._held = True

    def release(self) -> None:
        """Go on with what waits."""
        self._held = False
        for lane in list(self._lanes.values()):
            self._go_on(lane)

    def forget_epoch(self) -> None:
        """A new session may be one of another cluster, whose terms begin at 1."""
        self._epoch = 0

    async def drain(self, within_s: float) -> None:
        """Refuse what has not begun, and wait for what has, until the time is over."""
        self._closing = True
        self._held = False
        for job in [each for each in self._jobs if not each.begun]:
            del self._jobs[job]
            self._of_branch[job.question.about].remove(job)
            self._refuse(job.question, job.askers, "the process ends")
        self._of_branch = {branch: jobs for branch, jobs in self._of_branch.items() if jobs}
        for lane in self._lanes.values():
            lane.waiting.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within_s)
        await self.abandon()

    async def abandon(self) -> None:
        """End everything; what blocks in a thread goes on there, and nobody hears of it."""
        self._closing = self._held = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- how it stands

    @property
    def waiting(self) -> int:
        """Questions that wait for their turn."""
        return max(0, len(self._jobs) - self.running)

    @property
    def oldest_ms(self) -> int:
        """How long the question that came first of these has been here; 0 when there is none."""
        try:
            oldest = next(iter(self._jobs))
        except (StopIteration, RuntimeError):
            # Other threads look as well: the loop has just done it.
            return 0
        return int((time.monotonic() - oldest.since) * 1000)

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


_STALE: Final = "a newer leader has asked since"


async def _asked(resource: Resource, question: Question) -> Answer:
    """Have the resource do it.

    Raises: what the resource raises; TypeError: what it returns answers something else.
    """
    match question.kind:
        case CallKind.COMMIT:
            returned: object = await resource.commit(question.calls[0])
        case CallKind.ROLLBACK:
            returned = await resource.rollback(question.calls[0])
        case CallKind.STATUS:
            returned = await resource.status(question.calls[0])
        case CallKind.SWEEP if isinstance(resource, Sweeping):
            await resource.sweep()
            returned = Cleaning.CLEANED
        case CallKind.SWEEP:
            # What it does not have is not found, which is another thing than a failure.
            why = f"{type(resource).__name__} has no sweep"
            return Answer(status=NOT_NOW[question.kind], detail=why, not_found=True)
        case CallKind.CLEAN:
            await resource.clean(question.calls)
            returned = Cleaning.CLEANED
    answer = _answer_from(question.kind, returned)
    if answer is None:
        what = f"{type(resource).__name__} answers {question.kind} with {returned!r:.80}"
        raise TypeError(what)
    return answer


def _answer_from(kind: CallKind, returned: object) -> Answer | None:
    """Return what a resource returned as an answer; None when it answers something else."""
    if isinstance(returned, PhaseTwoResult) and returned.status in RESULTS[kind]:
        detail = returned.detail[:GREATEST_DETAIL]
        return Answer(status=returned.status, detail=detail, not_found=returned.not_found)
    if isinstance(returned, BranchStatus) and kind is CallKind.STATUS:
        return Answer(status=returned)
    if isinstance(returned, Cleaning) and kind in (CallKind.CLEAN, CallKind.SWEEP):
        return Answer(status=returned)
    return None


def _not_now(kind: CallKind, why: str) -> Answer:
    return Answer(status=NOT_NOW[kind], detail=why[:GREATEST_DETAIL])
