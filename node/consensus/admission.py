"""How membership changes: bootstrap, replacement of a wiped node, add, remove, and hand-over.

All of it runs on the leader, one change at a time: a change is refused until the one before it is
committed and an entry of the leader's own term is applied (the bug that Ongaro found in the
single-server algorithm, 2015). Requests that arrive at another node are passed to the leader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.consensus.membership import (
    Configuration,
    MemberRecord,
    configuration_command,
    decode_configuration,
    first_configuration,
)
from node.consensus.messages import Frame, Kind

if TYPE_CHECKING:
    from node.consensus.engine import Engine

logger = logging.getLogger(__name__)

ADD: Final = "ADD"
REMOVE: Final = "REMOVE"
TRANSFER: Final = "TRANSFER"

OnDone = Callable[[str, str], None]
"""Called with a code, empty when it is done, and a sentence."""

_PROMOTION_LAG_ENTRIES: Final = 64
"""A learner this close behind is caught up well within an election timeout."""

_BOOTSTRAP_INDEX: Final = 2
"""The first record stands behind the entry with which every log begins, in term 0, on each node
alike; so no election is needed to agree on it."""


@dataclass(slots=True)
class _Operation:
    """What an operator asked this leader for."""

    kind: str
    node_id: str
    deadline: float
    on_done: OnDone
    member: MemberRecord | None = None
    """Of ADD: the member as the operator named it; its disk is learnt from its hello."""
    proposed: bool = False
    sent: bool = False
    """Of TRANSFER: TimeoutNow is under way."""


class Admission:
    def __init__(self, engine: Engine, *, bootstrap: bool) -> None:
        self._engine = engine
        self._bootstrap = bootstrap
        self._to_announce: set[str] = set()
        self._operation: _Operation | None = None
        self._hand_over_until: float | None = None
        self._queued: Configuration | None = None
        """Proposed, and not in the log yet."""
        self._requests: dict[int, tuple[float, OnDone]] = {}
        self._last_request = int.from_bytes(engine.session[:4], "big")

    # --- asking

    def ask(
        self,
        kind: str,
        node_id: str,
        deadline: float,
        on_done: OnDone,
        peer_address: str = "",
        api_address: str = "",
    ) -> None:
        """Have the leader do it, wherever it is."""
        engine = self._engine
        if engine.raft.is_leader:
            member = MemberRecord(node_id, b"", peer_address, api_address)
            self._begin(kind, node_id, deadline, on_done, member)
            return
        leader = engine.leader_id
        if leader is None or not engine.links.is_connected(leader):
            on_done("NO_LEADER", "no leader is known here")
            return
        self._last_request += 1
        self._requests[self._last_request] = (deadline, on_done)
        engine.links.send(
            leader,
            (
                int(Kind.MEMBERSHIP_REQUEST),
                self._last_request,
                kind,
                node_id,
                "",
                peer_address,
                api_address,
            ),
        )

    def hand_over(self, deadline: float) -> None:
        """Give leadership to the most advanced voter, on this leader's own account."""
        if self._reason_to_refuse(TRANSFER, "") is None:
            self._operation = _Operation(TRANSFER, "", deadline, lambda _code, _detail: None)

    def on_request(self, peer: str, frame: Frame) -> None:
        _, number, kind, node_id, _, peer_address, api_address = frame
        engine = self._engine

        def reply(code: str, detail: str) -> None:
            engine.links.send(peer, (int(Kind.MEMBERSHIP_REPLY), number, code, detail))

        if not engine.raft.is_leader:
            reply("NO_LEADER", "this node does not lead")
            return
        # The asking node keeps the caller's deadline; here a bound is enough.
        deadline = engine.now() + 60.0
        self._begin(
            kind, node_id, deadline, reply, MemberRecord(node_id, b"", peer_address, api_address)
        )

    def on_reply(self, frame: Frame) -> None:
        _, number, code, detail = frame
        request = self._requests.pop(number, None)
        if request is not None:
            request[1](code, detail)

    # --- operations at the leader

    def _begin(
        self, kind: str, node_id: str, deadline: float, on_done: OnDone, member: MemberRecord
    ) -> None:
        if kind == TRANSFER and node_id == self._engine.identity.node_id:
            on_done("", "")
            return
        refusal = self._reason_to_refuse(kind, node_id)
        if refusal is not None:
            on_done(*refusal)
            return
        self._operation = _Operation(kind, node_id, deadline, on_done)
        if kind == ADD:
            self._operation.member = member
            self._engine.expect_peer(node_id, member.peer_address)
        self._engine.kick()

    def _reason_to_refuse(self, kind: str, node_id: str) -> tuple[str, str] | None:
        configuration = self._engine.membership.in_force
        if configuration is None or not self._engine.leader_ready:
            return "NOT_READY", "the leader has not applied an entry of its own term yet"
        if self._operation is not None or self._change_pending:
            return "CHANGE_IN_PROGRESS", "one change at a time: another one is not finished"
        member = configuration.member(node_id) if node_id else None
        if kind == ADD and member is not None:
            return "ALREADY_MEMBER", f"{node_id} is a member already"
        if kind == REMOVE and member is None:
            return "NOT_A_MEMBER", f"{node_id} is not a member"
        if kind == REMOVE and len(configuration.voters) == 1 and member in configuration.voters:
            return "LAST_VOTER", "the last voter cannot be removed"
        if kind == TRANSFER and node_id and not self._engine.membership.votes(node_id):
            return "NOT_A_VOTER", f"{node_id} is not a voter"
        if kind == TRANSFER and len(configuration.voters) == 1:
            return "LAST_VOTER", "there is no other voter"
        return None

    def feed(self, now: float) -> None:
        """Move whatever is under way one step."""
        engine = self._engine
        if engine.is_blank:
            self._try_bootstrap()
            return
        self._announce()
        if not engine.raft.is_leader or not engine.leader_ready:
            return
        if self._operation is not None:
            self._advance(self._operation, now)
        if not self._change_pending and not self.handing_over:
            self._replace_or_promote()

    def _advance(self, operation: _Operation, now: float) -> None:
        if now >= operation.deadline:
            self._finish("TIMED_OUT", "the deadline passed; what was begun may still complete")
            return
        match operation.kind:
            case "ADD":
                self._advance_add(operation)
            case "REMOVE":
                self._advance_remove(operation, now)
            case _:
                self._advance_transfer(operation, now)

    def _advance_add(self, operation: _Operation) -> None:
        engine = self._engine
        configuration = engine.membership.in_force
        if configuration is None or operation.member is None:
            return
        if not operation.proposed:
            contact = engine.contacts.get(operation.node_id)
            if contact is None or not engine.links.is_connected(operation.node_id):
                return
            if not contact.blank:
                self._finish("NOT_EMPTY", f"{operation.node_id} has been in a cluster before")
                return
            operation.proposed = True
            self._propose(
                configuration.with_learner(
                    MemberRecord(
                        operation.node_id,
                        contact.disk_uuid,
                        operation.member.peer_address,
                        operation.member.api_address or contact.api_address,
                    )
                )
            )
        elif engine.membership.votes(operation.node_id) and not self._change_pending:
            self._finish("", "")

    def _advance_remove(self, operation: _Operation, now: float) -> None:
        engine = self._engine
        configuration = engine.membership.in_force
        if configuration is None:
            return
        if operation.node_id == engine.identity.node_id:
            # A leader does not remove itself: its successor does.
            self._advance_transfer(operation, now)
        elif not operation.proposed:
            operation.proposed = True
            self._propose(configuration.without(operation.node_id))
        elif not self._change_pending:
            self._finish("", "")

    def _advance_transfer(self, operation: _Operation, now: float) -> None:
        engine = self._engine
        target = operation.node_id if operation.kind == TRANSFER else ""
        target = target or self._most_advanced_voter()
        if operation.sent:
            if self._hand_over_until is not None and now >= self._hand_over_until:
                self._finish("TRANSFER_FAILED", f"{target} did not take over in time")
            return
        if self._hand_over_until is None:
            # Proposing stops here, so that the target can catch up with a log that stands still.
            self._hand_over_until = now + 2 * engine.settings.election_timeout_max_s
        if not target or now >= self._hand_over_until:
            self._finish("TRANSFER_FAILED", "no voter caught up in time")
            return
        if engine.raft.match_index(target) == engine.journal.last()[0]:
            operation.sent = True
            self._hand_over_until = now + engine.settings.election_timeout_max_s
            engine.election.begin_hand_over()
            engine.links.send(target, (int(Kind.TIMEOUT_NOW), engine.raft.term))

    def _most_advanced_voter(self) -> str:
        engine = self._engine
        connected = [
            peer for peer in engine.membership.other_voters if engine.links.is_connected(peer)
        ]
        return max(connected, key=lambda peer: (engine.raft.match_index(peer), peer), default="")

    @property
    def handing_over(self) -> bool:
        """While leadership moves, nothing new is proposed."""
        return self._hand_over_until is not None

    def _end_hand_over(self) -> None:
        self._hand_over_until = None
        self._engine.election.end_hand_over()
        self._engine.kick()

    @property
    def _change_pending(self) -> bool:
        """Whether a change is on its way into the log, or in it and not applied yet."""
        if self._queued is not None and self._queued == self._engine.membership.in_force:
            self._queued = None
        return self._queued is not None or self._engine.membership.change_pending

    def _propose(self, configuration: Configuration) -> None:
        logger.info(
            "proposes a membership",
            extra={
                "voters": [member.node_id for member in configuration.voters],
                "learners": [member.node_id for member in configuration.learners],
            },
        )
        self._engine.counters["configurations_proposed"] += 1
        self._queued = configuration
        self._engine.raft.propose_configuration(configuration.encode())
        self._engine.kick()

    def _finish(self, code: str, detail: str) -> None:
        operation, self._operation = self._operation, None
        if self._hand_over_until is not None:
            # However it ended: proposing goes on.
            self._end_hand_over()
        if operation is not None:
            operation.on_done(code, detail)

    # --- what happens by itself

    def _replace_or_promote(self) -> None:
        configuration = self._engine.membership.in_force
        if configuration is None:
            return
        for learner in configuration.learners:
            if self._caught_up(learner):
                self._propose(configuration.with_voter(learner))
                return
        if not self._engine.settings.auto_replace:
            return
        for member in (*configuration.voters, *configuration.learners):
            contact = self._engine.contacts.get(member.node_id)
            if (
                contact is not None
                and contact.blank
                and contact.disk_uuid != member.disk_uuid
                and self._engine.links.is_connected(member.node_id)
                and not (member in configuration.voters and len(configuration.voters) == 1)
            ):
                # One voter leaves and a learner comes: the quorum changes by one only.
                self._propose(
                    configuration.with_learner(
                        MemberRecord(
                            member.node_id,
                            contact.disk_uuid,
                            member.peer_address,
                            contact.api_address,
                        )
                    )
                )
                return

    def _caught_up(self, learner: MemberRecord) -> bool:
        engine = self._engine
        contact = engine.contacts.get(learner.node_id)
        matched = engine.raft.match_index(learner.node_id)
        return (
            contact is not None
            and contact.disk_uuid == learner.disk_uuid
            and engine.links.is_connected(learner.node_id)
            and matched > 0
            and engine.journal.last()[0] - matched <= _PROMOTION_LAG_ENTRIES
        )

    # --- bootstrap

    def _try_bootstrap(self) -> None:
        """Create the cluster once every node of the file is here with an empty disk.

        The first node by id creates it, so that no two clusters arise when every node was told to.
        """
        engine = self._engine
        if not self._bootstrap or min(engine.initial_peers, default="~") < engine.identity.node_id:
            return
        members = [engine.own_member_record]
        for node_id, address in sorted(engine.initial_peers.items()):
            contact = engine.contacts.get(node_id)
            if contact is None or not engine.links.is_connected(node_id):
                return
            if not contact.blank:
                logger.error("%s belongs to a cluster already: not bootstrapping", node_id)
                self._bootstrap = False
                return
            members.append(MemberRecord(node_id, contact.disk_uuid, address, contact.api_address))
        cluster_id = engine.random_bytes(16)
        self._adopt(first_configuration(cluster_id, members))
        self._to_announce = set(engine.initial_peers)
        logger.info("created the cluster", extra={"cluster_id": cluster_id.hex()})

    def _adopt(self, configuration: Configuration) -> None:
        engine = self._engine
        if engine.journal.last() != (1, 0):
            raise AssertionError("only an empty log takes a first configuration")
        self._bootstrap = False
        engine.journal.add(configuration_command(configuration), _BOOTSTRAP_INDEX, 0)
        engine.kick()

    def _announce(self) -> None:
        """Tell the founders, once our own record is durable."""
        engine = self._engine
        if not self._to_announce or engine.journal.durable_index < _BOOTSTRAP_INDEX:
            return
        if engine.membership.in_force is None or not self._is_first_in_force:
            # A later record is no first one: whoever missed that gets the log.
            self._to_announce.clear()
            return
        record = engine.membership.in_force.encode()
        for peer in sorted(self._to_announce):
            if engine.links.send(peer, (int(Kind.BOOTSTRAP), record)):
                self._to_announce.discard(peer)

    @property
    def _is_first_in_force(self) -> bool:
        return list(self._engine.journal.configuration_indexes) == [_BOOTSTRAP_INDEX]

    def on_contact(self, peer: str) -> None:
        """A connection is up, or a hello came: of a founder that was not reached, perhaps."""
        engine = self._engine
        contact = engine.contacts.get(peer)
        if (
            contact is not None
            and contact.blank
            and self._is_first_in_force
            and engine.membership.is_pair(peer, contact.disk_uuid)
        ):
            self._to_announce.add(peer)
            engine.kick()

    def on_bootstrap(self, peer: str, record: bytes) -> None:
        engine = self._engine
        if not engine.is_blank:
            return
        try:
            configuration = decode_configuration(record)
        except ValueError:
            logger.error("%s sent a malformed first configuration", peer)
            return
        own = configuration.member(engine.identity.node_id)
        if own is None or own.disk_uuid != engine.identity.disk_uuid:
            logger.error("%s sent a first configuration without this node", peer)
            return
        self._adopt(configuration)

    # --- events

    def on_timer(self, now: float) -> None:
        for number in [number for number, each in self._requests.items() if each[0] <= now]:
            _, on_done = self._requests.pop(number)
            on_done("TIMED_OUT", "the deadline passed; what was begun may still complete")

    def on_role_change(self) -> None:
        self._queued = None
        if self._engine.raft.is_leader or self._operation is None:
            return
        if self._operation.kind == TRANSFER and self._operation.sent:
            self._finish("", "")
        else:
            self._finish("NO_LEADER", "leadership moved meanwhile; ask again")
