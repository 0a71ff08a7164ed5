"""The session of a process with the cluster: kept over connections, nodes and leaders.

A connection that ends is followed by one to another node, which takes the session along. Only when
the cluster says that the session has ended there is a new one; resources whose work ends with a
session are told first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Final

import msgspec
from yarl import URL

from tidelock.client.transport import Transport
from tidelock.crash_points import reached
from tidelock.errors import ClientClosedError, TidelockError
from tidelock.rm import connection as channel
from tidelock.rm import failures
from tidelock.rm.carried_calls import CarriedCalls
from tidelock.rm.connection import ChannelClosedError, Connection
from tidelock.rm.dispatch import Answer, Asker, Dispatcher, Question
from tidelock.rm.fates import Fates
from tidelock.rm.messages import (
    GREATEST_CLEAN_BATCH,
    GREATEST_GRACE_MS,
    KIND_OF,
    LEAST_GRACE_MS,
    Asked,
    CallKind,
    FatesTold,
    Leave,
    Register,
    Response,
    Result,
    SweepAsked,
    Unreadable,
    Welcome,
)
from tidelock.rm.resource import BranchCall, Resource, SessionBound
from tidelock.rm.roster import Roster

REGISTER_EVERY_S: Final = 0.15
"""Nodes hear whoever registers more often than every 0.1 s later."""

LOST_WITHIN_S: Final = 30.0
"""How long resources may take to roll back what ended with a session."""

LOOK_EVERY_S: Final = 60.0
"""How often it is asked which nodes there are, so that there is somewhere to go."""

STAYS_S: Final = 300.0
"""How long a channel stays at least where it went because that node leads."""

_LOOK_S: Final = 0.5
_UNDER_WAY_S: Final = 0.5
"""How long calls under way may take before the channel goes elsewhere."""
_FIRST_PAUSE_S: Final = 0.1
_GREATEST_PAUSE_S: Final = 2.0
_GREATEST_PAUSE_REFUSED_S: Final = 15.0
_PROVEN_S: Final = 2.0
"""A connection that lasted for so long was a good one."""
_LEAVE_S: Final = 1.0

_log: Final = logging.getLogger(__name__)


class NoSessionError(TidelockError):
    """This process has no session of its channel, and nothing was asked of the cluster.

    Its message says why: no resource is attached, or what the last node said. Branches of LCN and
    XA need one.
    """


class Identity(msgspec.Struct, frozen=True):
    """Who the process is."""

    application_id: str
    host: str
    instance: str = ""
    grace_ms: int | None = None


def checked_grace(grace_ms: int | None) -> int | None:
    """Return how long a session outlives its connection. Raises: ValueError"""
    if grace_ms is not None and not LEAST_GRACE_MS <= grace_ms <= GREATEST_GRACE_MS:
        raise ValueError(f"grace_ms is {LEAST_GRACE_MS} to {GREATEST_GRACE_MS}, not {grace_ms}")
    return grace_ms


class Standing(msgspec.Struct, frozen=True):
    """The session as it can be used."""

    session_id: int = 0
    revision: int = -1
    """Of the roster, up to which the cluster knows it."""
    cluster_id: str = ""

    def knows(self, revision: int, ended: int) -> bool:
        """Whether it can be used for the roster of a revision, by who knows that one has ended."""
        return self.session_id not in (0, ended) and self.revision >= revision


class Session:
    """Keeps a channel open. All is on one loop, but for `standing`, which any thread reads."""

    def __init__(
        self,
        transport: Transport,
        roster: Roster,
        dispatcher: Dispatcher,
        fates: Fates,
        who: Identity,
    ) -> None:
        self._transport = transport
        self._roster = roster
        self._dispatcher = dispatcher
        self._fates = fates
        self._who = who
        self._session_id = 0
        """What is taken along; 0 when there is none."""
        self._cluster_id = ""
        """Whose session it is."""
        self._known = -1
        self._sent: deque[int] = deque()
        """Revisions of the roster that the node was told and has not confirmed."""
        self.standing = Standing()
        self.connection: Connection | None = None
        self._carried: CarriedCalls | None = None
        """The calls that go over this connection, when its node takes any."""
        self.node_id = ""
        """The node that holds the channel."""
        self._welcomed_at: float | None = None
        """Since when this connection holds the session."""
        self._gone_since: float | None = None
        """Since when no node has held the session that one held before."""
        self._gone_level = logging.INFO
        """The most urgent of what was said about it meanwhile."""
        self._failed = 0
        self._replaced = 0
        self._losing: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stays_until = 0.0
        """Until when the channel stays where it is, though another node leads."""
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._leaving = False
        self.welcomes = 0
        self.lost = 0
        self.last_failure = ""
        """Why the last connection ended, or was none."""

    @property
    def is_connected(self) -> bool:
        """Whether a node holds the channel, and has welcomed this process."""
        return self.connection is not None and self._welcomed_at is not None

    # --- what others want of it

    def changed(self) -> None:
        """The roster has changed: tell the node."""
        self._changed.set()

    async def registered(self, revision: int, ended: int) -> int:
        """Return the session once the cluster knows the roster of this revision; not the one that
        has `ended`, of which this process may not have heard yet.
        """
        while not self.standing.knows(revision, ended):
            await self._news.wait()
        return self.standing.session_id

    async def leave(self) -> None:
        """End the session, if a node hears it."""
        self._leaving = True
        connection = self.connection
        if connection is None or self._welcomed_at is None:
            return
        reached("rm.before-leave")
        with contextlib.suppress(ChannelClosedError, TimeoutError):
            async with asyncio.timeout(_LEAVE_S):
                await connection.say(Leave())
                # Who receives sees the node's farewell.
                while self.connection is connection:
                    await self._news.wait()

    async def end(self, within_s: float) -> None:
        """After the last connection: let resources roll back what ends with the session."""
        session_id, self._session_id = self._session_id, 0
        _, resources = self._roster.snapshot()
        bound = [each for each in resources if isinstance(each, SessionBound)]
        if session_id and bound:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await asyncio.gather(*(_tell(each, session_id) for each in bound))

    # --- from connection to connection

    async def run(self) -> None:
        """Keep the channel open until this is cancelled, or the process leaves."""
        try:
            while not self._leaving:
                url = self._transport.nodes.in_order(spread=True)[0]
                try:
                    await self._look()
                    url = self._transport.nodes.in_order(spread=True)[0]
                    await self._converse(url)
                except ChannelClosedError as error:
                    self._note(url, error)
                    await asyncio.sleep(self._pause_s(error))
                except ClientClosedError:
                    return
                except Exception as error:
                    # A fault of ours must not leave the process without a channel.
                    _log.error(
                        "the channel broke off: %s (%s)",
                        failures.told(error),
                        failures.places(error),
                    )
                    self.last_failure = failures.told(error)
                    self._failed += 1
                    await asyncio.sleep(_GREATEST_PAUSE_S)
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _note(self, url: URL, error: ChannelClosedError) -> None:
        """Take in why a connection ended."""
        lasted_s = 0.0 if self._welcomed_at is None else _now() - self._welcomed_at
        if self._welcomed_at is not None and not self._leaving:
            self._gone_since = _now()
        self._welcomed_at = None
        self.last_failure = f"{url}: {error}"
        if self._leaving:
            return
        self._transport.nodes.avoid(url)
        if lasted_s >= _PROVEN_S:
            self._failed = self._replaced = 0
        self._failed += 1
        level = logging.WARNING if error.refused else logging.INFO
        self._gone_level = max(self._gone_level, level)
        _log.log(level, "the channel to %s ended with %d: %s", url, error.code, error)
        if error.code == channel.SESSION_ENDED:
            self._end_session()
        elif error.code == channel.REPLACED:
            # It may have been a connection of this process that had been slow to register; then
            # the session can be taken back. The second time it is somebody else's.
            self._replaced += 1
            if self._replaced > 1:
                self._end_session()

    def _pause_s(self, error: ChannelClosedError) -> float:
        """How long to wait for the next connection: by chance, so that a crowd does not come."""
        if error.refused:
            longest_s = min(_GREATEST_PAUSE_REFUSED_S, 0.5 * 2 ** min(self._failed, 10))
            return random.uniform(longest_s / 2, longest_s)  # noqa: S311
        longest_s = min(_GREATEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(self._failed - 1, 10))
        return random.uniform(0, longest_s)  # noqa: S311

    async def _converse(self, url: URL) -> None:
        """Register at a node and hear what it says.

        Raises:
            ChannelClosedError, always; ClientClosedError
        """
        self._welcomed_at = None
        connection = await channel.connect(self._transport, url)
        self.connection = connection
        self._sent.clear()
        registering = asyncio.create_task(self._keep_registered(connection))
        try:
            while True:
                heard = await connection.receive()
                match heard:
                    case Response():
                        if self._carried is not None:
                            self._carried.answered(heard)
                    case Welcome():
                        self._welcome(url, connection, heard)
                    case FatesTold():
                        self._fates.told(heard)
                    case Unreadable():
                        self._complain(connection, heard)
                    case _:
                        self._ask(connection, heard)
        finally:
            self.connection = None
            self._fates.lost()
            self._carry_no_more()
            registering.cancel()
            (failed,) = await asyncio.gather(registering, return_exceptions=True)
            if isinstance(failed, Exception):
                _log.error("%s (%s)", failures.told(failed), failures.places(failed))
            await connection.close()
            self._publish()

    async def _keep_registered(self, connection: Connection) -> None:
        """Tell the node what resources there are, whenever that changes."""
        told = -1
        while True:
            self._changed.clear()
            revision, resources = self._roster.snapshot()
            if revision != told:
                reached("rm.before-register")
                told = revision
                self._sent.append(revision)
                of_each = _modes_of(resources)
                try:
                    await connection.say(
                        Register(
                            application_id=self._who.application_id,
                            host=self._who.host,
                            instance=self._who.instance,
                            session_id=self._session_id,
                            resources=tuple(of_each),
                            # One mode is named at least. Nobody is asked about no resource.
                            modes=tuple(sorted({each.mode for each in resources})) or ("AT",),
                            modes_of=tuple(map(tuple, of_each.values())),
                            clean_batch=GREATEST_CLEAN_BATCH,
                            grace_ms=self._who.grace_ms,
                        )
                    )
                except ChannelClosedError:
                    # Who receives hears of it, too.
                    return
                await asyncio.sleep(REGISTER_EVERY_S)
            else:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY_S):
                        await self._changed.wait()
                with contextlib.suppress(ClientClosedError):
                    await self._look()
                    await self._go_to_the_leader(connection)

    async def _look(self) -> None:
        """See which nodes there are, and who leads. Raises: ClientClosedError"""
        self._transport.use()
        if self._transport.looked is not None:
            await self._transport.looked(_LOOK_S)

    async def _go_to_the_leader(self, connection: Connection) -> None:
        """Leave a node for the one that leads, where nothing is forwarded. The session goes along.

        Not often: it may have no room, and then this goes on forever.
        """
        nodes, now = self._transport.nodes, _now()
        leader = nodes.leader
        if leader is None or leader == connection.url or nodes.is_avoided(leader):
            return
        if now < self._stays_until:
            return
        self._stays_until = now + STAYS_S
        # What is under way comes to its end, and nothing new begins.
        self._transport.carrier = None
        await asyncio.sleep(_UNDER_WAY_S)
        _log.info("the channel goes to %s, which leads", leader)
        await connection.close()

    # --- what a node says

    def _welcome(self, url: URL, connection: Connection, welcome: Welcome) -> None:
        """Raises: ChannelClosedError: it answers nothing."""
        if not self._sent:
            raise ChannelClosedError("the node welcomes whom it was not asked to")
        self._known = self._sent.popleft()
        reached("rm.after-register")
        if self._welcomed_at is None:
            self._welcomed_at = _now()
            self.welcomes += 1
            self.node_id = welcome.node_id
            self._transport.nodes.answered(url)
        if self._session_id not in (0, welcome.session_id):
            self._lose()
        self._say_welcomed(welcome)
        self._session_id = welcome.session_id
        self._cluster_id = welcome.cluster_id
        self._fates.welcomed(connection, welcome.cluster_id)
        if welcome.takes_requests and self._carried is None:
            self._carried = self._transport.carrier = CarriedCalls(connection)
        self._publish()

    def _carry_no_more(self) -> None:
        carried, self._carried, self._transport.carrier = self._carried, None, None
        if carried is not None:
            carried.lost()

    def _say_welcomed(self, welcome: Welcome) -> None:
        goes_on = self._session_id == welcome.session_id
        if self._gone_since is not None:
            _log.log(
                self._gone_level,
                "the channel is back at %s after %.1f s; session %d %s",
                *(welcome.node_id, _now() - self._gone_since, welcome.session_id),
                "goes on" if goes_on else "is a new one",
            )
        elif not goes_on:
            _log.info("session %d at %s", welcome.session_id, welcome.node_id)
        self._gone_since, self._gone_level = None, logging.INFO

    def _ask(self, connection: Connection, asked: Asked) -> None:
        """Raises: ChannelClosedError: it asks whom it has not welcomed."""
        if self._welcomed_at is None:
            raise ChannelClosedError("the node asks before it has welcomed anybody")
        question = _question(asked, self._cluster_id)
        self._dispatcher.ask(question, self._asker(connection, asked.request_id))

    def _complain(self, connection: Connection, asked: Unreadable) -> None:
        _log.error("%s could not be read: %s", asked.kind, asked.why)
        asker = self._asker(connection, asked.request_id)
        self._dispatcher.decline(asked.kind, asker, f"it could not be read: {asked.why}")

    def _asker(self, connection: Connection, request_id: int) -> Asker:
        """Return what answers a request: on its own connection, for numbers begin anew on each.

        When that is gone the coordinator asks again on the next one.
        """

        async def answer(given: Answer) -> None:
            with contextlib.suppress(ChannelClosedError):
                await connection.say(
                    Result(
                        request_id=request_id,
                        status=given.status,
                        detail=given.detail,
                        not_found=given.not_found,
                    )
                )

        return answer

    # --- sessions that end

    def _end_session(self) -> None:
        """A node says that the session is over, or is another process's."""
        # Perhaps a newer process of the instance took its place. It is not to be ended in return.
        self._who = msgspec.structs.replace(self._who, instance="")
        self._lose()

    def _lose(self) -> None:
        """The session has ended: let resources roll back what ended with it."""
        if self._session_id == 0:
            return
        lost, self._session_id = self._session_id, 0
        self.lost += 1
        self._replaced = 0
        self._dispatcher.hold()
        self._dispatcher.forget_epoch()
        self._losing = self._spawn(self._tell_lost(lost, self._losing))
        self._publish()

    async def _tell_lost(self, session_id: int, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        reached("rm.before-lost")
        _, resources = self._roster.snapshot()
        bound = [each for each in resources if isinstance(each, SessionBound)]
        _log.warning(
            "session %d has ended; %d resources roll back what ended with it",
            *(session_id, len(bound)),
        )
        tellings = [self._spawn(_tell(each, session_id)) for each in bound]
        if tellings:
            _, late = await asyncio.wait(tellings, timeout=LOST_WITHIN_S)
            if late:
                _log.error("%d of them have not done so in %g s", len(late), LOST_WITHIN_S)
        reached("rm.after-lost")
        if self._losing is asyncio.current_task():
            self._losing = None
            self._dispatcher.release()
            self._publish()

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _publish(self) -> None:
        """Show how the session stands."""
        usable = self._session_id != 0 and self._losing is None
        self.standing = (
            Standing(self._session_id, self._known, self._cluster_id) if usable else Standing()
        )
        self._news.set()
        self._news = asyncio.Event()


def _modes_of(resources: Iterable[Resource]) -> dict[str, list[str]]:
    """Return the ids of resources in their order, each with its modes in theirs."""
    found: dict[str, list[str]] = {}
    for name, mode in sorted((each.resource_id, each.mode) for each in resources):
        found.setdefault(name, []).append(mode)
    return found


async def _tell(resource: SessionBound, session_id: int) -> None:
    try:
        await resource.session_lost(session_id)
    except Exception as error:
        _log.error(
            "what ended with session %d could not be rolled back: %s (%s)",
            *(session_id, failures.told(error), failures.places(error)),
        )


def _question(asked: Asked, cluster_id: str) -> Question:
    kind = KIND_OF[type(asked)]
    if isinstance(asked, SweepAsked):
        return Question(
            kind=kind,
            mode=asked.mode,
            resource_id=asked.resource_id,
            epoch=asked.epoch,
            calls=(),
        )
    first = BranchCall(
        xid=asked.xid,
        branch_id=asked.branch_id,
        mode=asked.mode,  # type: ignore[arg-type]  # known, once a resource of it is found
        resource_id=asked.resource_id,
        application_data=asked.application_data,
        epoch=asked.epoch,
        phase_one_done=asked.phase_one_done,
        owner_gone=asked.owner_gone,
        cluster_id=cluster_id,
    )
    calls: tuple[BranchCall, ...] = (first,)
    if kind is CallKind.CLEAN and asked.branches:
        calls = tuple(
            msgspec.structs.replace(first, xid=each.xid, branch_id=each.branch_id)
            for each in asked.branches
        )
    return Question(
        kind=kind, mode=asked.mode, resource_id=asked.resource_id, epoch=asked.epoch, calls=calls
    )


def _now() -> float:
    return asyncio.get_running_loop().time()
