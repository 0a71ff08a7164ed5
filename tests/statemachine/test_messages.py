"""Two-phase messages and topics: prepared, asked about, submitted, delivered to all or given up."""

from __future__ import annotations

from statemachine import keys
from statemachine.commands import (
    DeleteSubscriber,
    DeleteTopic,
    OperateGlobal,
    PrepareMessage,
    PutSubscriber,
    Step,
)
from statemachine.outcomes import Outcome, RejectionCode, SubscribersChanged
from statemachine.state import MachineState, load_state
from statemachine.transactions.messages import get_undelivered
from statemachine.transactions.planning import next_calls
from statemachine.transactions.rows import get_timeline
from statemachine.transactions.topics import (
    GREATEST_SUBSCRIBERS,
    get_subscribers,
    list_topics,
)
from tests.statemachine.building import code, result
from tests.statemachine.transacting import Transactions, status, step

QUERY = "http://sender/query"


class Messages(Transactions):
    def prepare(
        self, *steps: Step, query: str = QUERY, delay_ms: int = 0, query_after_ms: int = 1_000
    ) -> Outcome:
        return self.do(
            PrepareMessage(
                xid="x",
                prefix="n1",
                name="pay",
                query=query,
                steps=steps,
                delay_ms=delay_ms,
                query_after_ms=query_after_ms,
            )
        )

    def subscribe(self, topic: str, name: str, url: str = "http://s/") -> SubscribersChanged:
        changed = result(self.do(PutSubscriber(topic=topic, name=name, url=url, remark="")))
        assert isinstance(changed, SubscribersChanged)
        return changed

    def urls(self) -> list[str | None]:
        return [call.url for call in next_calls(self.row(), self.branches())]

    def due_in_ms(self) -> int:
        return self.row().due_ms - self.elapsed_ms

    def events(self) -> list[str]:
        return [line.event for line in get_timeline(self.store, "x")]


def to_topic(name: str, topic: str) -> Step:
    return step(name, url=f"topic://{topic}")


def test_a_prepared_message_waits_and_its_submission_delivers_it() -> None:
    log = Messages()
    assert status(log.prepare(step("1"), step("2"))) == "BEGIN"
    assert log.calls() == [(1, "QUERY")]
    assert log.due_in_ms() == 1_000
    assert status(log.commit()) == "BEGIN"
    assert log.row().submitted
    assert log.calls() == [(2, "FORWARD"), (3, "FORWARD")]
    assert log.due_in_ms() <= 0
    log.told("2")
    log.told("1")
    assert log.row().status == "COMMITTED"
    assert get_undelivered(log.store, "x") is None


def test_submitting_again_changes_nothing() -> None:
    log = Messages()
    log.prepare(step("1"))
    log.commit()
    before = log.branches()
    assert status(log.commit()) == "BEGIN"
    assert log.branches() == before
    log.told("1")
    assert status(log.commit()) == "COMMITTED"


def test_a_delivery_is_repeated_until_it_is_accepted_even_when_it_is_refused() -> None:
    log = Messages()
    log.prepare(step("1", limit=1))
    log.commit()
    for _ in range(5):
        log.told("1", "FAILED")
        log.told("1", "RETRY")
    assert log.row().status == "BEGIN"
    assert code(log.roll_back()) is RejectionCode.TRANSACTION_DECIDED
    log.told("1")
    assert log.row().status == "COMMITTED"


def test_an_aborted_message_is_never_delivered() -> None:
    log = Messages()
    log.prepare(step("1"))
    assert status(log.roll_back()) == "ROLLED_BACK"
    assert not log.is_due()
    assert status(log.roll_back()) == "ROLLED_BACK"
    assert code(log.commit()) is RejectionCode.TRANSACTION_DECIDED
    assert get_undelivered(log.store, "x") is None


def test_the_sender_decides_when_it_is_asked() -> None:
    for verdict, expected in (("DONE", "BEGIN"), ("FAILED", "ROLLED_BACK")):
        log = Messages()
        log.prepare(step("1"))
        log.told("check-back", verdict)
        assert log.row().status == expected
        assert log.row().submitted is (verdict == "DONE")


def test_a_sender_that_does_not_know_is_asked_again_later_and_later() -> None:
    log = Messages()
    log.prepare(step("1"))
    waits = []
    for _ in range(3):
        log.told("check-back", "RETRY")
        waits.append(log.due_in_ms())
    assert waits == [500, 1_000, 2_000]
    log.told("check-back", "ONGOING")
    assert log.branches()[0].attempts == 3
    assert not log.row().submitted


def test_an_operator_has_the_sender_asked_at_once() -> None:
    log = Messages()
    log.prepare(step("1"), query_after_ms=60_000)
    log.do(OperateGlobal(xid="x", action="RETRY_NOW", reason="", principal="me"))
    assert log.due_in_ms() <= 0


def test_a_delayed_message_is_delivered_that_long_after_its_submission() -> None:
    log = Messages()
    log.prepare(step("1"), delay_ms=30_000)
    log.commit()
    assert log.due_in_ms() == 30_000


def test_a_topic_reaches_those_who_subscribe_to_it_when_the_message_is_submitted() -> None:
    log = Messages()
    log.subscribe("paid", "mail", "http://mail/")
    log.prepare(step("01", url="http://ledger/"), to_topic("02", "paid"), to_topic("03", "none"))
    log.subscribe("paid", "audit", "http://audit/")
    log.subscribe("other", "x", "http://x/")
    log.commit()
    assert [branch.name for branch in log.branches()] == ["check-back", "01", "02-01", "02-02"]
    assert log.urls() == ["http://ledger/", "http://audit/", "http://mail/"]
    assert "NO_SUBSCRIBERS" in log.events()


def test_a_message_to_one_subscriber_keeps_its_steps_name() -> None:
    log = Messages()
    log.subscribe("paid", "mail")
    log.prepare(to_topic("01", "paid"))
    log.commit()
    assert [branch.name for branch in log.branches()] == ["check-back", "01"]


def test_a_message_that_nobody_wants_ends_with_its_submission() -> None:
    log = Messages()
    log.prepare(to_topic("01", "none"))
    assert status(log.commit()) == "COMMITTED"


def test_a_message_without_a_sender_to_ask_or_without_deliveries_is_refused() -> None:
    log = Messages()
    assert code(log.prepare(step("1"), query="")) is RejectionCode.INVALID_COMMAND
    assert code(log.prepare()) is RejectionCode.INVALID_COMMAND
    many = [to_topic(str(number), "t") for number in range(11)]
    assert code(log.prepare(*many)) is RejectionCode.INVALID_COMMAND
    assert log.rows(keys.GLOBAL) == []
    assert log.rows(keys.UNDELIVERED) == []


def test_subscribers_are_added_changed_and_deleted() -> None:
    log = Messages()
    assert log.subscribe("t", "a") == SubscribersChanged(topic="t", changed=True, subscribers=1)
    assert log.subscribe("t", "a") == SubscribersChanged(topic="t", changed=False, subscribers=1)
    assert log.subscribe("t", "a", "http://new/").changed
    log.subscribe("t", "b")
    log.subscribe("tt", "a")
    assert [row.url for row in get_subscribers(log.store, "t")] == ["http://new/", "http://s/"]
    assert list_topics(log.store, "", limit=10) == ["t", "tt"]
    assert list_topics(log.store, "t", limit=10) == ["tt"]
    assert list_topics(log.store, "", limit=1) == ["t"]
    gone = result(log.do(DeleteSubscriber(topic="t", name="a")))
    assert gone == SubscribersChanged(topic="t", changed=True, subscribers=1)
    again = result(log.do(DeleteSubscriber(topic="t", name="a")))
    assert again == SubscribersChanged(topic="t", changed=False, subscribers=1)
    log.do(DeleteTopic(topic="t"))
    assert list_topics(log.store, "", limit=10) == ["tt"]
    assert load_state(log.store).subscriber_count == 1


def test_a_topic_has_only_so_many_subscribers() -> None:
    log = Messages()
    for number in range(GREATEST_SUBSCRIBERS):
        log.subscribe("t", str(number))
    full = log.do(PutSubscriber(topic="t", name="more", url="u", remark=""))
    assert code(full) is RejectionCode.SUBSCRIBERS_FULL
    assert log.subscribe("t", "0", "http://new/").changed


def test_names_that_no_row_could_have_are_refused() -> None:
    log = Messages()
    for topic, name in (("", "a"), ("t", ""), ("t" * 129, "a"), ("t", "é" * 65)):
        for command in (
            PutSubscriber(topic=topic, name=name, url="u", remark=""),
            DeleteSubscriber(topic=topic, name=name),
        ):
            assert code(log.do(command)) is RejectionCode.INVALID_COMMAND
    assert code(log.do(DeleteTopic(topic="t" * 129))) is RejectionCode.INVALID_COMMAND


def test_nothing_is_left_of_a_message_after_its_retention() -> None:
    log = Messages()
    log.prepare(step("1"), delay_ms=5)
    log.commit()
    log.told("1")
    log.wait(MachineState().retention_ms)
    log.fire_due()
    assert [key[:2] for key, _ in log.rows(b"X")] == [keys.SUMMARY]


def test_a_message_cannot_be_committed_by_the_timeout_of_others() -> None:
    """No deadline is armed for it: time only has its sender asked."""
    log = Messages()
    log.prepare(step("1"), query_after_ms=10)
    log.wait(3_600_000)
    log.fire_due()
    assert log.row().status == "BEGIN"
    assert not log.row().submitted
