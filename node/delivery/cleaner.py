"""Tells resource managers which transactions are over, so that they can forget them.

The leader does it, some time after the end: what it says ends the guards against late calls. What
was told is recorded; what was not recorded is told again. Where there were too many to note each,
or a process was lost that may have done something too late, a manager is asked to look through all
that it has, and to ask what is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from itertools import groupby
from typing import Final

from api.rm_messages import Called, CallKind, CleanBranch, ResultStatus, encode
from node.delivery.leader import Housekeeper, Leader
from node.delivery.relay import ManagerReply, Outcome, Relay
from statemachine.commands import CleanedBranch, RecordCleaned, RecordSwept
from statemachine.positions import Position
from statemachine.state import load_state
from statemachine.store import DamagedStateError, Reader
from statemachine.transactions.channel_rows import (
    ChannelSession,
    latest_registration,
    session_to_clean,
)
from statemachine.transactions.cleaning import GREATEST_CLEANED
from statemachine.transactions.cleaning_rows import (
    Cleaning,
    Sweep,
    due_cleanings,
    resources_to_clean,
    sweeps,
)

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 1.0
_AT_ONCE: Final = 400
"""Branches of one resource that are told of in one go."""
_MESSAGES_AT_ONCE: Final = 16
_RESOURCES_AT_ONCE: Final = 100
_PAUSE_AFTER_FAILURE_S: Final = 5.0
_GREATEST_PAUSED: Final = 10_000
_TIMEOUT_S: Final = 10.0
_SWEEP_TIMEOUT_S: Final = 120.0
"""A manager may have much to look through."""
_SWEEPS_AT_ONCE: Final = 16
_PROPOSAL_MS: Final = 5_000
_NEVER: Final = Position(0, 0)


class Cleaner:
    """Runs on every node and acts on the leader only."""

    def __init__(
        self,
        engine: Leader,
        cluster: Housekeeper,
        reader: Reader,
        relay: Relay,
        *,
        clean_after_ms: int,
    ) -> None:
        self._engine = engine
        self._cluster = cluster
        self._reader = reader
        self._relay = relay
        self._clean_after_ms = clean_after_ms
        self._paused_until: dict[str, float] = {}
        """Resources of which somebody could not be told."""
        self._unswept_until: dict[tuple[str, str, str], float] = {}
        """The same of places that could not be swept."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(self.look), name="cleaner"),
            asyncio.create_task(self._run(self.look_for_sweeps), name="sweeper"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            try:
                await work()
            except DamagedStateError as error:
                self._cluster.report_damage(error)
                return
            except Exception as error:
                # Unknown, overloaded, or no leader any more: it is told again.
                logger.info("cleaning was interrupted: %r", error)

    async def look(self) -> None:
        """Tell of all branches that nobody has been told of, if this node leads."""
        while self._engine.leader_ready and await self._clean():
            pass

    async def look_for_sweeps(self) -> None:
        """Have all places swept where branches were not noted, if this node leads."""
        while self._engine.leader_ready and await self._sweep():
            pass

    async def _clean(self) -> bool:
        """Tell of the next branches of every resource; False when what is left may wait for others.

        Whoever went on as long as there is anything would be told of each transaction by itself.
        """
        now = self._engine.now()
        self._paused_until = {
            resource: until for resource, until in self._paused_until.items() if until > now
        }
        more = False
        done: list[Cleaning] = []
        after = ""
        while resources := resources_to_clean(self._reader, after, _RESOURCES_AT_ONCE):
            for resource_id in resources:
                if resource_id in self._paused_until:
                    continue
                cleaned = await self._clean_resource(resource_id)
                more |= len(cleaned) == _AT_ONCE
                done += cleaned
                if len(done) > GREATEST_CLEANED - _AT_ONCE:
                    await self._record(done)
                    done = []
            after = resources[-1]
            await asyncio.sleep(0)
        if done:
            await self._record(done)
        return more

    async def _clean_resource(self, resource_id: str) -> list[Cleaning]:
        """Tell of the next branches of a resource; return those that are cleaned."""
        if latest_registration(self._reader, resource_id) == _NEVER:
            return []
        before_ms = self._engine.stamps.elapsed_ms() - self._clean_after_ms
        due = due_cleanings(self._reader, resource_id, before_ms, _AT_ONCE)
        messages = list(self._messages(due))
        done: list[Cleaning] = []
        for at in range(0, len(messages), _MESSAGES_AT_ONCE):
            part = messages[at : at + _MESSAGES_AT_ONCE]
            replies = await asyncio.gather(*[self._tell(*message) for message in part])
            for (_, told), reply in zip(part, replies, strict=True):
                if reply.outcome is Outcome.ANSWERED and reply.status == ResultStatus.CLEANED:
                    done += told
                else:
                    self._pause(resource_id, reply)
            if resource_id in self._paused_until:
                break
        return done

    async def _record(self, done: Iterable[Cleaning]) -> None:
        command = RecordCleaned(
            branches=tuple(
                CleanedBranch(each.resource_id, each.ended_ms, each.xid, each.branch_id)
                for each in done
            )
        )
        await self._cluster.propose_internal((command,), timeout_ms=_PROPOSAL_MS)

    def _pause(self, resource_id: str, reply: ManagerReply) -> None:
        if len(self._paused_until) < _GREATEST_PAUSED:
            self._paused_until[resource_id] = self._engine.now() + _PAUSE_AFTER_FAILURE_S
        logger.debug("%s could not be cleaned: %s %s", resource_id, reply.outcome, reply.detail)

    def _messages(self, due: Iterable[Cleaning]) -> Iterable[tuple[ChannelSession, list[Cleaning]]]:
        """Yield who is told of which branches. Those for which nobody is connected wait."""
        for _, alike in groupby(due, key=lambda each: (each.mode, each.host)):
            branches = list(alike)
            first = branches[0]
            session = session_to_clean(
                self._reader, first.resource_id, first.mode, first.host, first.branch_id
            )
            if session is None:
                continue
            for at in range(0, len(branches), session.clean_batch):
                yield session, branches[at : at + session.clean_batch]

    async def _tell(self, session: ChannelSession, branches: list[Cleaning]) -> ManagerReply:
        first = branches[0]
        several = [
            CleanBranch(xid=each.xid, branch_id=each.branch_id, mode=each.mode) for each in branches
        ]
        called = Called(
            xid=first.xid,
            branch_id=first.branch_id,
            mode=first.mode,
            resource_id=first.resource_id,
            epoch=self._engine.raft.term,
            branches=several if session.clean_batch > 1 else [],
        )
        return await self._ask(session, CallKind.CLEAN, called, _TIMEOUT_S)

    async def _ask(
        self, session: ChannelSession, kind: CallKind, called: Called, timeout_s: float
    ) -> ManagerReply:
        future: asyncio.Future[ManagerReply] = asyncio.get_running_loop().create_future()

        def replied(reply: ManagerReply) -> None:
            if not future.done():
                future.set_result(reply)

        cancel = self._relay.ask(session, kind, encode(called), called.epoch, timeout_s, replied)
        try:
            return await future
        finally:
            cancel()

    # --- what was not noted

    async def _sweep(self) -> bool:
        """Have some managers look through what they have; False when there is nobody to ask."""
        found = self._to_sweep()
        if not found:
            return False
        before_ms = self._swept_before_ms()
        swept = await asyncio.gather(*[self._sweep_at(session, sweep) for session, sweep in found])
        done = [sweep for (_, sweep), was_done in zip(found, swept, strict=True) if was_done]
        if done:
            recorded = tuple(
                RecordSwept(
                    resource_id=each.resource_id,
                    host=each.host,
                    mode=each.mode,
                    upto_ms=max(before_ms, 0),
                )
                for each in done
            )
            await self._cluster.propose_internal(recorded, timeout_ms=_PROPOSAL_MS)
        return bool(done)

    def _swept_before_ms(self) -> int:
        """Return since when what is swept must be over: in the time of the state.

        Who sweeps is told the same time or a later one, also by a node that is idle, so that
        nothing is left which the sweep is said to have covered.
        """
        return load_state(self._reader).elapsed_ms - self._clean_after_ms

    def _to_sweep(self) -> list[tuple[ChannelSession, Sweep]]:
        now = self._engine.now()
        self._unswept_until = {
            place: until for place, until in self._unswept_until.items() if until > now
        }
        before_ms = self._swept_before_ms()
        found: list[tuple[ChannelSession, Sweep]] = []
        after = b""
        while len(found) < _SWEEPS_AT_ONCE and (
            page := sweeps(self._reader, after, _RESOURCES_AT_ONCE)
        ):
            for after, sweep in page:  # noqa: B007 - the last one counts
                place = sweep.resource_id, sweep.host, sweep.mode
                if sweep.left_out.ended_ms > before_ms or place in self._unswept_until:
                    continue
                session = session_to_clean(self._reader, *_of(sweep), spread=0)
                if session is not None and len(found) < _SWEEPS_AT_ONCE:
                    found.append((session, sweep))
        return found

    async def _sweep_at(self, session: ChannelSession, sweep: Sweep) -> bool:
        called = Called(
            mode=sweep.mode, resource_id=sweep.resource_id, epoch=self._engine.raft.term
        )
        reply = await self._ask(session, CallKind.SWEEP, called, _SWEEP_TIMEOUT_S)
        if reply.outcome is Outcome.ANSWERED and reply.status == ResultStatus.CLEANED:
            return True
        if reply.not_found and not sweep.left_out.count:
            # It keeps nothing that could be swept, and of nothing is it known.
            return True
        if len(self._unswept_until) < _GREATEST_PAUSED:
            place = sweep.resource_id, sweep.host, sweep.mode
            self._unswept_until[place] = self._engine.now() + _PAUSE_AFTER_FAILURE_S
        logger.debug("%s was not swept: %s %s", sweep.resource_id, reply.outcome, reply.detail)
        return False


def _of(sweep: Sweep) -> tuple[str, str, str]:
    return sweep.resource_id, sweep.mode, sweep.host
