"""Space-time diagrams over HTTP: as edges, and as logs that ShiViz takes."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from api import space_time
from statemachine.commands import TrimEvents
from tests.integration.local_cluster import START_MS
from tests.integration.serving import (
    EVENT,
    SPACE_TIME,
    SYNC,
    VECTOR_CLOCK,
    VERSION,
    Answered,
    Api,
    serving,
)


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving() as served:
        yield served


async def send(api: Api, node_id: str) -> Any:
    return (await api.post(f"{VECTOR_CLOCK}/send", {"nodeId": node_id})).body


async def receive(api: Api, node_id: str, sent: Any) -> Any:
    body = {
        "nodeId": node_id,
        "vectorClock": sent["vectorClock"],
        "messageId": sent["messageId"],
    }
    return (await api.post(f"{VECTOR_CLOCK}/receive", body)).body


async def increment(api: Api, key: str, node_id: str) -> Any:
    return (await api.post(f"{VERSION}/increment", {"key": key, "nodeId": node_id})).body


async def diagram(api: Api, query: str = "") -> Any:
    answered = await api.get(f"{SPACE_TIME}?{query}")
    assert answered.status == 200
    return answered.body


def edges(found: Any) -> set[tuple[str, str, str]]:
    """Return the edges with the labels of events as their names."""
    names = {node["eventId"]: f"{node['nodeId']}:{node['label']}" for node in found["nodes"]}
    return {(names[edge["source"]], names[edge["target"]], edge["kind"]) for edge in found["edges"]}


Line = tuple[str, dict[str, int], str]
"""Of a log: host, clock, event."""


def as_shiviz_reads(answered: Answered) -> list[Line]:
    """Parse a log as ShiViz does, and check what ShiViz checks."""
    assert answered.headers["Content-Type"] == "text/plain; charset=utf-8"
    expression, delimiter, log = answered.content.decode().split("\n", 2)
    assert delimiter == ""
    found = [*re.finditer(expression.replace("(?<", "(?P<"), log.strip())]
    assert sum(len(match[0].splitlines()) for match in found) == len(log.splitlines())
    lines = [(each["host"], json.loads(each["clock"]), each["event"]) for each in found]
    own: dict[str, int] = {}
    for host, clock, _ in lines:
        own[host] = own.get(host, 0) + 1
        assert clock[host] == own[host], "a host's clock counts its events from 1"
        for other, count in clock.items():
            assert 1 <= count <= own.get(other, 0), "what a clock counts is in the log"
    return lines


async def shiviz(api: Api, query: str = "") -> list[Line]:
    return as_shiviz_reads(await api.get(f"{SPACE_TIME}?format=shiviz&{query}"))


async def test_an_empty_log_is_an_empty_diagram(api: Api) -> None:
    assert await diagram(api) == {"nodes": [], "edges": [], "nextCursor": None}
    assert await shiviz(api) == []


async def test_a_diagram_has_every_event_and_what_orders_them(api: Api) -> None:
    created = await api.record("orders", "created")
    body = {"nodeId": "billing", "sourceNodeId": "orders", "timestamp": 1, "eventType": "seen"}
    await api.post(SYNC, body)
    sent = await send(api, "billing")
    await receive(api, "mail", sent)
    await increment(api, "cart", "mail")
    await increment(api, "cart", "orders")
    found = await diagram(api)
    assert found["nextCursor"] is None
    assert found["nodes"][0] == {
        "eventId": created["eventId"],
        "nodeId": "orders",
        "kind": "timestamp.event",
        "label": "created",
        "createdAt": START_MS,
        "lamportTimestamp": 1,
    }
    assert found["nodes"][2]["messageId"] == sent["messageId"]
    assert found["nodes"][4]["key"] == "cart"
    assert [node["kind"] for node in found["nodes"]] == [
        "timestamp.event",
        "timestamp.sync",
        "vector.sent",
        "vector.received",
        "version.incremented",
        "version.incremented",
    ]
    message = sent["messageId"]
    assert edges(found) == {
        ("orders:created", "billing:seen", "SYNC"),
        ("billing:seen", f"billing:sent {message}", "PROGRAM"),
        (f"billing:sent {message}", f"mail:received {message}", "MESSAGE"),
        (f"mail:received {message}", "mail:incremented cart", "PROGRAM"),
        ("orders:created", "orders:incremented cart", "PROGRAM"),
        ("mail:incremented cart", "orders:incremented cart", "KEY"),
    }


async def test_the_log_has_the_clocks_of_the_same_order(api: Api) -> None:
    await api.record("orders", "created")
    body = {"nodeId": "billing", "sourceNodeId": "orders", "timestamp": 1, "eventType": "seen"}
    await api.post(SYNC, body)
    await api.record("billing", "paid")
    await api.record("orders", "cancelled")
    assert await shiviz(api) == [
        ("orders", {"orders": 1}, "created"),
        ("billing", {"orders": 1, "billing": 1}, "seen"),
        ("billing", {"orders": 1, "billing": 2}, "paid"),
        ("orders", {"orders": 2}, "cancelled"),
    ]


async def test_a_log_says_when_and_where_each_event_was(api: Api) -> None:
    event = await api.record("orders", "created")
    content = (await api.get(f"{SPACE_TIME}?format=shiviz")).content.decode()
    assert content.splitlines() == [
        r"(?<event>.*)\n(?<host>\S*) (?<clock>\{.*\}) (?<id>[0-9a-f]*) (?<date>\S*)",
        "",
        "created",
        f'orders {{"orders":1}} {event["eventId"]} 2023-11-14T22:13:20.000Z',
    ]


@pytest.mark.parametrize(
    "name", ["a b", "100%", "a,b", "%20", "{}", 'q"\\', "订单", 'x {"y":1}', "a/b?c#d", "'"]
)
async def test_any_name_is_one_word_of_a_log_and_can_be_asked_for_so(api: Api, name: str) -> None:
    await api.record(name, f" {name} ")
    await api.record("other", " ")
    (host, clock, event), (_, _, blank) = await shiviz(api)
    assert clock == {host: 1}
    assert event == name.strip()
    assert blank == "timestamp.event"
    quoted = "".join(f"%{byte:02X}" for byte in host.encode())
    (only,) = (await diagram(api, f"participants={quoted}"))["nodes"]
    assert only["nodeId"] == name


async def test_only_some_participants_are_shown_and_order_runs_through_the_others(
    api: Api,
) -> None:
    await receive(api, "b", await send(api, "a"))
    await receive(api, "c", await send(api, "b"))
    found = await diagram(api, "participants=a,c")
    assert [node["nodeId"] for node in found["nodes"]] == ["a", "c"]
    assert [edge["kind"] for edge in found["edges"]] == ["CLOCK"]
    assert [line[1] for line in await shiviz(api, "participants=a,c")] == [
        {"a": 1},
        {"a": 1, "c": 1},
    ]
    assert (await diagram(api, "participants=nobody"))["nodes"] == []


async def test_only_some_kinds_count(api: Api) -> None:
    await api.record("a")
    await increment(api, "k", "a")
    await send(api, "a")

    async def kinds(query: str) -> list[str]:
        return [node["kind"] for node in (await diagram(api, query))["nodes"]]

    assert await kinds("kinds=version") == ["version.incremented"]
    assert await kinds("kinds=timestamp,vector") == ["timestamp.event", "vector.sent"]
    assert len((await diagram(api, "kinds=timestamp,vector"))["edges"]) == 1


async def test_a_diagram_begins_and_ends_where_it_is_asked_to(api: Api) -> None:
    events = []
    for number in range(5):
        events.append((await api.record("a", f"e{number}"))["eventId"])
        api.cluster.wall_ms += 1_000

    async def labels(query: str) -> str:
        found = await diagram(api, query)
        assert len(found["edges"]) == max(0, len(found["nodes"]) - 1)
        return " ".join(node["label"] for node in found["nodes"])

    assert await labels(f"from={events[3]}") == "e3 e4"
    assert await labels(f"to={events[1]}") == "e0"
    assert await labels(f"from={events[1]}&to={events[3]}") == "e1 e2"
    assert await labels(f"from={START_MS + 1_001}&to={START_MS + 3_001}") == "e2 e3"
    assert await labels(f"from={START_MS + 2_000}&to={START_MS + 2_000}") == ""
    assert await labels("from=0") == "e0 e1 e2 e3 e4"
    assert await labels(f"from={START_MS + 60_000}") == ""
    assert await labels("from=" + "f" * 24) == ""
    lines = await shiviz(api, f"from={events[3]}")
    assert [line[1] for line in lines] == [{"a": 1}, {"a": 2}]


async def test_a_long_log_is_a_row_of_diagrams(api: Api) -> None:
    for number in range(7):
        await api.record("ab"[number % 2], f"e{number}")
    labels: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = await diagram(api, f"limit=3{cursor and f'&cursor={cursor}'}")
        labels.append([node["label"] for node in page["nodes"]])
        inside = {node["eventId"] for node in page["nodes"]}
        assert all({edge["source"], edge["target"]} <= inside for edge in page["edges"])
        cursor = page["nextCursor"]
    assert labels == [["e0", "e1", "e2"], ["e3", "e4", "e5"], ["e6"]]


async def test_a_log_names_the_next_one_in_a_header(api: Api) -> None:
    for number in range(3):
        await api.record("a", f"e{number}")
    first = await api.get(f"{SPACE_TIME}?format=shiviz&limit=2")
    assert [line[2] for line in as_shiviz_reads(first)] == ["e0", "e1"]
    cursor = first.headers["Tidelock-Next-Cursor"]
    second = await api.get(f"{SPACE_TIME}?format=shiviz&limit=2&cursor={cursor}")
    assert [line[2] for line in as_shiviz_reads(second)] == ["e2"]
    assert "Tidelock-Next-Cursor" not in second.headers


async def test_a_page_looks_at_so_many_events_and_no_more(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_time, "GREATEST_EXAMINED", 150)
    body = {"operations": [{"op": "timestamp.event", "nodeId": "a", "eventType": "e"}] * 400}
    await api.post("/api/v1/batch", body)
    await api.record("rare")
    sizes = []
    cursor: str | None = ""
    while cursor is not None:
        page = await diagram(api, f"participants=rare{cursor and f'&cursor={cursor}'}")
        sizes.append(len(page["nodes"]))
        cursor = page["nextCursor"]
    assert sizes == [0, 0, 1]
    monkeypatch.undo()
    assert len((await diagram(api, "limit=10000"))["nodes"]) == 401


async def test_what_is_trimmed_while_a_diagram_is_made_ends_it(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = [{"op": "timestamp.event", "nodeId": "a", "eventType": "e"}] * 350
    await api.post("/api/v1/batch", {"operations": operations})
    read = api.cluster.read

    async def read_and_trim(*args: Any, **named: Any) -> Any:
        if api.cluster.consistencies[-1:] == ["linearizable"]:
            trim = TrimEvents(before_wall_ms=START_MS + 1, limit=150)
            await api.cluster.propose((trim,), timeout_ms=1)
        return await read(*args, **named)

    monkeypatch.setattr(api.cluster, "read", read_and_trim)
    first = await diagram(api)
    assert len(first["nodes"]) == 100
    monkeypatch.undo()
    second = await diagram(api, f"cursor={first['nextCursor']}")
    assert (len(second["nodes"]), second["nextCursor"]) == (200, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("format=xml", "format"),
        ("format=", "format"),
        ("participants=", "participants"),
        ("participants=a,", "participants"),
        ("participants=%0A", "participants"),
        ("participants=%250A", "participants"),
        ("participants=" + "x" * 129, "participants"),
        ("participants=" + ",".join("a" * 101), "participants"),
        ("kinds=", "kinds"),
        ("kinds=lock", "kinds"),
        ("kinds=vector,", "kinds"),
        ("from=now", "from"),
        ("from=-1", "from"),
        ("to=" + "9" * 16, "to"),
        ("to=" + "A" * 24, "to"),
        ("limit=0", "limit"),
        ("limit=10001", "limit"),
        ("cursor=x", "cursor"),
        ("consistency=weak", "consistency"),
        ("nodeId=a", "nodeId"),
    ],
)
async def test_what_is_wrong_is_refused_by_name(api: Api, query: str, field: str) -> None:
    answered = await api.get(f"{SPACE_TIME}?{query}")
    assert answered.refused == (422, "INVALID_FIELD", [field])


async def test_it_is_as_fresh_as_it_is_asked_to_be(api: Api) -> None:
    await api.post(EVENT, {"nodeId": "a", "eventType": "e"})
    await diagram(api, "consistency=local")
    await diagram(api)
    assert [each.value for each in api.cluster.consistencies] == ["local", "linearizable"]
    assert (await api.get(SPACE_TIME)).headers["Tidelock-Index"] == "1.0"
