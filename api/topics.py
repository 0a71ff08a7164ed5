"""Topics: names under which messages reach whoever has subscribed."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from aiohttp import web

from api import json_text, requests
from api.branches import Url, checked_url
from api.endpoints import (
    BODY_ERRORS,
    CONSISTENCY,
    PAGE,
    READ_ERRORS,
    WRITE_ERRORS,
    Endpoint,
    Parameter,
)
from api.replies import Reply
from api.service import Service, applied
from api.settings import GREATEST_NAME_LENGTH
from api.shapes import PRINTABLE, Answer, Body, Name, Page
from statemachine.commands import DeleteSubscriber, PutSubscriber
from statemachine.outcomes import RequestOutcome, SubscribersChanged
from statemachine.paging import decode_cursor, encode_cursor
from statemachine.transactions.topics import Subscriber, get_subscribers, list_topics

GREATEST_REMARK_LENGTH: Final = 200


class SubscriberBody(Body, frozen=True, kw_only=True):
    """Where a topic's messages are delivered."""

    url: Annotated[Url, msgspec.Meta(min_length=1)]
    remark: Annotated[
        str,
        msgspec.Meta(max_length=GREATEST_REMARK_LENGTH, extra_json_schema={"pattern": PRINTABLE}),
    ] = ""


class SubscriberChange(Answer, frozen=True, kw_only=True):
    topic: str
    name: str
    changed: bool
    """False when it had been so before."""
    subscriber_count: int


class SubscriberView(Answer, frozen=True, kw_only=True):
    name: str
    url: str
    remark: str
    since: int
    """Milliseconds since the epoch: when its URL was set."""


class TopicView(Answer, frozen=True, kw_only=True):
    topic: str
    subscribers: list[SubscriberView]
    """In the order of their names."""


class TopicSummary(Answer, frozen=True, kw_only=True):
    topic: str


class Topics:
    """The handlers of `/api/v1/topics`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._subscribers = msgspec.json.Decoder(SubscriberBody)

    async def put(self, request: web.Request) -> Reply:
        service = self._service
        body = await requests.read_json(request, service.settings)
        asked = json_text.decode(body, self._subscribers)
        remark = asked.remark
        command = PutSubscriber(
            topic=requests.path_name(request, "topic"),
            name=requests.path_name(request, "name"),
            url=checked_url(service, "url", asked.url),
            remark=requests.name("remark", remark, 4 * GREATEST_REMARK_LENGTH) if remark else "",
        )
        return self._changed(command.name, await service.propose(request, body, (command,)))

    async def delete(self, request: web.Request) -> Reply:
        await requests.read_body(request, self._service.settings)
        command = DeleteSubscriber(
            topic=requests.path_name(request, "topic"), name=requests.path_name(request, "name")
        )
        return self._changed(command.name, await self._service.propose(request, b"", (command,)))

    def _changed(self, name: str, outcome: RequestOutcome) -> Reply:
        done = applied(outcome)
        assert isinstance(done, SubscribersChanged)
        answer = SubscriberChange(
            topic=done.topic, name=name, changed=done.changed, subscriber_count=done.subscribers
        )
        return self._service.written(200, answer, outcome, outcome.position)

    async def show(self, request: web.Request) -> Reply:
        topic = requests.path_name(request, "topic")
        view = await self._service.view(request)
        subscribers = [_view_of(each) for each in get_subscribers(view.reader, topic)]
        answer = TopicView(topic=topic, subscribers=subscribers)
        return self._service.replies.success(200, answer, view.position)

    async def list(self, request: web.Request) -> Reply:
        limit, cursor = requests.page(request)
        after = "" if cursor is None else decode_cursor(cursor).decode(errors="ignore")
        view = await self._service.view(request)
        found = list_topics(view.reader, after[:GREATEST_NAME_LENGTH], limit=limit + 1)
        more = len(found) > limit
        page = Page(
            items=[TopicSummary(topic=topic) for topic in found[:limit]],
            next_cursor=encode_cursor(found[limit - 1].encode()) if more else None,
        )
        return self._service.replies.success(200, page, view.position)


def _view_of(row: Subscriber) -> SubscriberView:
    return SubscriberView(name=row.name, url=row.url, remark=row.remark, since=row.since_ms)


_PATH: Final = "/api/v1/topics"
_SUBSCRIBERS: Final = f"{_PATH}/{{topic}}/subscribers"
_TAG: Final = "messages"
_TOPIC: Final = Parameter(name="topic", type=Name, description="The topic.")
_NAME: Final = Parameter(name="name", type=Name, description="The subscriber.")


def endpoints(service: Service) -> list[Endpoint]:
    topics = Topics(service)
    return [
        Endpoint(
            method="GET",
            path=_PATH,
            operation="listTopics",
            summary="Topics that have subscribers, by name",
            tag=_TAG,
            handler=topics.list,
            answer=Page[TopicSummary],
            parameters=(*PAGE, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
        Endpoint(
            method="GET",
            path=_SUBSCRIBERS,
            operation="listSubscribers",
            summary="Who is told of a topic's messages",
            tag=_TAG,
            handler=topics.show,
            answer=TopicView,
            parameters=(_TOPIC, CONSISTENCY),
            errors=READ_ERRORS,
            timed=True,
        ),
        Endpoint(
            method="PUT",
            path=f"{_SUBSCRIBERS}/{{name}}",
            operation="putSubscriber",
            summary="Have a topic's messages delivered to a URL",
            tag=_TAG,
            handler=topics.put,
            body=SubscriberBody,
            answer=SubscriberChange,
            parameters=(_TOPIC, _NAME),
            errors=(*BODY_ERRORS, *WRITE_ERRORS, "SUBSCRIBERS_FULL"),
            writes=True,
            timed=True,
        ),
        Endpoint(
            method="DELETE",
            path=f"{_SUBSCRIBERS}/{{name}}",
            operation="deleteSubscriber",
            summary="End a subscription",
            tag=_TAG,
            handler=topics.delete,
            answer=SubscriberChange,
            parameters=(_TOPIC, _NAME),
            errors=WRITE_ERRORS,
            writes=True,
            timed=True,
        ),
    ]
