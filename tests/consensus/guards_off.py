"""Guards of replication, switched off, for tests that show what they are for."""

from __future__ import annotations

import pytest

from node.consensus.appending import Appending
from node.consensus.messages import Frame
from node.consensus.replication import Replication


def hand_everything_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """append_entries go to the library as they come, which also judges and answers them."""

    def on_append(appending: Appending, peer: str, frame: Frame) -> None:
        _, term, sequence, commit, previous_index, previous_term, entries = frame
        appending._transport.answering_sequence = sequence
        appending._transport.inject(
            appending._raft.node(peer),
            {
                "type": "append_entries",
                "term": term,
                "commit_index": commit,
                "prevLogIdx": previous_index,
                "prevLogTerm": previous_term,
                "entries": entries,
            },
        )

    monkeypatch.setattr(Appending, "on_append", on_append)


def let_the_library_judge_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_append_reply(replication: Replication, peer: str, frame: Frame) -> None:
        _, _, _, next_index, reset, success, _ = frame
        replication._tell_library(peer, next_index, reset=reset, success=success)

    monkeypatch.setattr(Replication, "on_append_reply", on_append_reply)
