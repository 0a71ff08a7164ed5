"""How membership changes: replacement of a wiped node, add, remove, and hand-over.

All of it runs on the leader, one change at a time: a change is refused until the one before it is
committed and an entry of the leader's own term is applied (the bug that Ongaro found in the
single-server algorithm, 2015). Requests that arrive at another node are passed to the leader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from node.consensus.contacts import Contacts
from node.consensus.election import Election
from node.consensus.foundation import Foundation
from node.consensus.leadership import Leadership
from node.consensus.membership import Configuration, MemberRecord
from node.consensus.messages import Frame, Kind
from node.consensus.peers import Peers

logger = logging.getLogger(__name__)

ADD: Final = "ADD"
REMOVE: Final = "REMOVE"
TRANSFER: Final = "TRANSFER"

OnDone = Callable[[str, str], None]
"""Called with a code, empty when it is done, and a sentence."""

_PROMOTION_LAG_ENTRIES: Final = 64
"""A learner this close behind is caught up well within an election timeout."""


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
    def __init__(
        self,
        base: Foundation,
        contacts: Contacts,
        peers: Peers,
        election: Election,
        leadership: Leadership,
    ) -> None:
        self._raft = base.raft
        self._journal = base.journal
        self._links = base.links
        self._membership = base.membership
        self._contacts = contacts
        self._peers = peers
        self._election = election
        self._leadership = leadership
        self._runtime = base.runtime
        self._settings = base.settings
        self._pulse = base.pulse
        self._counters = base.counters
        self._operation: _Operation | None = None
        self._hand_over_until: float | None = None
        self._queued: Configuration | None = None
        """Proposed, and not in the log yet."""
        self._requests: dict[int, tuple[float, OnDone]] = {}
        self._last_request = int.from_bytes(base.session[:4], "big")

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
        if self._raft.is_leader:
            member = MemberRecord(node_id, b"", peer_address, api_address)
            self._begin(kind, node_id, deadline, on_done, member)
            return
        leader = self._raft.leader_id
        if leader is None or not self._links.is_connected(leader):
            on_done("NO_LEADER", "no leader is known here")
            return
        self._last_request += 1
        self._requests[self._last_request] = (deadline, on_done)
        self._links.send(
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

        def reply(code: str, detail: str) -> None:
            self._links.send(peer, (int(Kind.MEMBERSHIP_REPLY), number, code, detail))

        if not self._raft.is_leader:
            reply("NO_LEADER", "this node does not lead")
            return
        # The asking node keeps the caller's deadline; here a bound is enough.
        deadline = self._runtime.monotonic() + 60.0
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
        if kind == TRANSFER and node_id == self._membership.node_id:
            on_done("", "")
            return
        refusal = self._reason_to_refuse(kind, node_id)
        if refusal is not None:
            on_done(*refusal)
            return
        self._operation = _Operation(kind, node_id, deadline, on_done)
        if kind == ADD:
            self._operation.member = member
            self._peers.expect(node_id, member.peer_address)
        self._pulse.kick()

    def _reason_to_refuse(self, kind: str, node_id: str) -> tuple[str, str] | None:
        configuration = self._membership.in_force
        if configuration is None or not self._leadership.ready:
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
        if kind == TRANSFER and node_id and not self._membership.votes(node_id):
            return "NOT_A_VOTER", f"{node_id} is not a voter"
        if kind == TRANSFER and len(configuration.voters) == 1:
            return "LAST_VOTER", "there is no other voter"
        return None

    def feed(self, now: float) -> None:
        """Move whatever is under way one step."""
        if not self._raft.is_leader or not self._leadership.ready:
            return
        if self._operation is not None:
            self._advance(self._operation, now)
        if not self._change_pending and not self._leadership.handing_over:
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
        configuration = self._membership.in_force
        if configuration is None or operation.member is None:
            return
        if not operation.proposed:
            contact = self._contacts.get(operation.node_id)
            if contact is None or not self._links.is_connected(operation.node_id):
                return
            if not contact.new:
                self._finish("NOT_EMPTY", f"{operation.node_id} has been a member before")
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
        elif self._membership.votes(operation.node_id) and not self._change_pending:
            self._finish("", "")

    def _advance_remove(self, operation: _Operation, now: float) -> None:
        configuration = self._membership.in_force
        if configuration is None:
            return
        if operation.node_id == self._membership.node_id:
            # A leader does not remove itself: its successor does.
            self._advance_transfer(operation, now)
        elif not operation.proposed:
            operation.proposed = True
            self._propose(configuration.without(operation.node_id))
        elif not self._change_pending:
            self._finish("", "")

    def _advance_transfer(self, operation: _Operation, now: float) -> None:
        target = operation.node_id if operation.kind == TRANSFER else ""
        target = target or self._most_advanced_voter()
        if operation.sent:
            if self._hand_over_until is not None and now >= self._hand_over_until:
                self._finish("TRANSFER_FAILED", f"{target} did not take over in time")
            return
        if self._hand_over_until is None:
            # Proposing stops here, so that the target can catch up with a log that stands still.
            self._hand_over_until = now + 2 * self._settings.election_timeout_max_s
            self._leadership.handing_over = True
        if not target or now >= self._hand_over_until:
            self._finish("TRANSFER_FAILED", "no voter caught up in time")
            return
        if self._raft.match_index(target) == self._journal.last()[0]:
            operation.sent = True
            self._hand_over_until = now + self._settings.election_timeout_max_s
            self._election.begin_hand_over()
            self._links.send(target, (int(Kind.TIMEOUT_NOW), self._raft.term))

    def _most_advanced_voter(self) -> str:
        connected = [
            peer for peer in self._membership.other_voters if self._links.is_connected(peer)
        ]
        return max(connected, key=lambda peer: (self._raft.match_index(peer), peer), default="")

    def _end_hand_over(self) -> None:
        self._hand_over_until = None
        self._leadership.handing_over = False
        self._election.end_hand_over()
        self._pulse.kick()

    @property
    def _change_pending(self) -> bool:
        """Whether a change is on its way into the log, or in it and not applied yet."""
        if self._queued is not None and self._queued == self._membership.in_force:
            self._queued = None
        return self._queued is not None or self._membership.change_pending

    def _propose(self, configuration: Configuration) -> None:
        logger.info(
            "proposes a membership",
            extra={
                "voters": [member.node_id for member in configuration.voters],
                "learners": [member.node_id for member in configuration.learners],
            },
        )
        self._counters["configurations_proposed"] += 1
        self._queued = configuration
        self._raft.propose_configuration(configuration.encode())
        self._pulse.kick()

    def _finish(self, code: str, detail: str) -> None:
        operation, self._operation = self._operation, None
        if self._hand_over_until is not None:
            # However it ended: proposing goes on.
            self._end_hand_over()
        if operation is not None:
            if operation.kind == ADD:
                self._peers.expect_nobody()
            operation.on_done(code, detail)

    # --- what happens by itself

    def _replace_or_promote(self) -> None:
        configuration = self._membership.in_force
        if configuration is None:
            return
        for learner in configuration.learners:
            if self._caught_up(learner):
                self._propose(configuration.with_voter(learner))
                return
        if not self._settings.auto_replace:
            return
        for member in (*configuration.voters, *configuration.learners):
            contact = self._contacts.get(member.node_id)
            if (
                contact is not None
                and contact.new
                and contact.disk_uuid != member.disk_uuid
                and self._links.is_connected(member.node_id)
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
        contact = self._contacts.get(learner.node_id)
        matched = self._raft.match_index(learner.node_id)
        return (
            contact is not None
            and contact.disk_uuid == learner.disk_uuid
            and self._links.is_connected(learner.node_id)
            and matched > 0
            and self._journal.last()[0] - matched <= _PROMOTION_LAG_ENTRIES
        )

    # --- events

    def on_timer(self, now: float) -> None:
        for number in [number for number, each in self._requests.items() if each[0] <= now]:
            _, on_done = self._requests.pop(number)
            on_done("TIMED_OUT", "the deadline passed; what was begun may still complete")

    def on_role_change(self) -> None:
        self._queued = None
        if self._raft.is_leader or self._operation is None:
            return
        if self._operation.kind == TRANSFER and self._operation.sent:
            self._finish("", "")
        else:
            self._finish("NO_LEADER", "leadership moved meanwhile; ask again")
