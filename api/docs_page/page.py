"""The document as a page: built once, with a policy that lets nothing run or load but the page."""

from __future__ import annotations

import gzip
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from api.docs_page.curl import ORIGIN, command, in_lines
from api.docs_page.markup import Markup, element, joined, paragraphs, prose
from api.docs_page.schema_words import Schemas

Json = dict[str, Any]

GREATEST_NESTING: Final = 4
"""Objects within each other that are shown; a schema may contain itself."""

_FOLDER: Final = Path(__file__).parent
_COMMON_PREFIX: Final = "/api/v1/"
_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M1 6q3.5-5 7 0t7 0M1 '
    '11q3.5-5 7 0t7 0" fill="none" stroke="#1583a6" stroke-width="2" stroke-linecap="round"/></svg>'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What is sent, as it is and compressed, and the headers that belong to it."""

    content: bytes
    compressed: bytes
    headers: str
    """Each line with its end."""


def render(document: Json) -> Page:
    """Return the page of an OpenAPI document."""
    style = (_FOLDER / "style.css").read_text(encoding="utf-8")
    script = (_FOLDER / "script.js").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{document['info']['title']} API"),
        element("link", rel="icon", href=f"data:image/svg+xml,{quote(_ICON)}"),
        element("style", Markup(style)),
        element("script", Markup(script)),
    )
    html = element("html", head, _Document(document).body(), lang="en")
    content = f"<!doctype html>\n{html}\n".encode()
    return Page(
        content=content,
        compressed=gzip.compress(content, mtime=0),
        headers=(
            "Content-Security-Policy: default-src 'none'; "
            f"style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            "Referrer-Policy: no-referrer\r\n"
            "Vary: Accept-Encoding\r\n"
        ),
    )


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


class _Document:
    """Makes the parts of one page."""

    def __init__(self, document: Json) -> None:
        self._document = document
        self._schemas = Schemas(document["components"]["schemas"])
        self._problems = document["components"]["examples"]
        self._by_tag: dict[str, list[tuple[str, str, Json]]] = {
            tag["name"]: [] for tag in document["tags"]
        }
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                self._by_tag[operation["tags"][0]].append((method.upper(), path, operation))

    def body(self) -> Markup:
        return element(
            "body",
            element("a", "Skip to the operations", class_="skip", href="#content"),
            self._top(),
            element("div", self._navigation(), self._main(), class_="layout"),
            id="top",
        )

    def _top(self) -> Markup:
        info = self._document["info"]
        return element(
            "header",
            element(
                "button",
                "Menu",
                id="menu",
                type="button",
                aria_expanded="false",
                aria_controls="navigation",
            ),
            element("a", info["title"], element("span", " API"), class_="brand", href="#top"),
            element(
                "search",
                element("label", "Search", class_="unseen", for_="query"),
                element(
                    "input",
                    id="query",
                    type="search",
                    placeholder="Search a path, a field, a code",
                    autocomplete="off",
                    spellcheck="false",
                    aria_keyshortcuts="/",
                ),
                element("kbd", "/", aria_hidden="true"),
            ),
            element("button", "Theme", id="theme", type="button"),
            class_="top",
        )

    def _navigation(self) -> Markup:
        tags = [
            element(
                "li",
                element("a", _title(tag), href=f"#{_anchor(tag)}", class_="tag"),
                element("ul", [self._link(*operation) for operation in operations]),
            )
            for tag, operations in self._by_tag.items()
        ]
        return element("nav", element("ul", tags), id="navigation", aria_label="Operations")

    def _link(self, method: str, path: str, operation: Json) -> Markup:
        return element(
            "li",
            element(
                "a",
                _badge(method),
                element("span", _broken(path.removeprefix(_COMMON_PREFIX))),
                href=f"#{operation['operationId']}",
                title=operation["summary"],
            ),
        )

    def _main(self) -> Markup:
        info = self._document["info"]
        intro = element(
            "section",
            element("h1", f"{info['title']} API"),
            element("p", info["summary"], class_="lead"),
            paragraphs(info["description"]),
            element(
                "p",
                "The same for programs: ",
                element("a", "openapi.json", href="/openapi.json"),
                f", OpenAPI {self._document['openapi']}.",
            ),
            class_="intro",
        )
        return element(
            "main",
            intro,
            element("p", id="found", role="status"),
            [self._tag(tag) for tag in self._document["tags"]],
            id="content",
            tabindex="-1",
        )

    def _tag(self, tag: Json) -> Markup:
        anchor = _anchor(tag["name"])
        return element(
            "section",
            element("h2", _title(tag["name"]), id=anchor),
            paragraphs(tag["description"]),
            [self._operation(*operation) for operation in self._by_tag[tag["name"]]],
            aria_labelledby=anchor,
        )

    def _operation(self, method: str, path: str, operation: Json) -> Markup:
        anchor = operation["operationId"]
        return element(
            "article",
            element(
                "h3",
                element("a", operation["summary"], href=f"#{anchor}"),
                id=f"{anchor}-title",
            ),
            element(
                "p",
                _badge(method),
                element("code", _broken(path), class_="path"),
                element("code", anchor, class_="name"),
                class_="line",
            ),
            element(
                "div",
                element("div", self._asked(operation), self._answered(operation)),
                element("div", self._samples(method, path, operation), class_="samples"),
                class_="columns",
            ),
            id=anchor,
            aria_labelledby=f"{anchor}-title",
        )

    def _asked(self, operation: Json) -> Iterator[Markup]:
        parameters = operation.get("parameters", ())
        if parameters:
            yield element("h4", "Parameters")
            yield element(
                "ul",
                [
                    self._field(
                        parameter["name"],
                        {**parameter["schema"], "description": parameter["description"]},
                        mark="required" if parameter.get("required") else "",
                        place=parameter["in"],
                    )
                    for parameter in parameters
                ],
                class_="fields",
            )
        body = operation.get("requestBody")
        if body is not None:
            schema = body["content"]["application/json"]["schema"]
            yield element("h4", "Body" if body["required"] else "Body, may be left out")
            yield self._whole(schema, answered=False)

    def _answered(self, operation: Json) -> Iterator[Markup]:
        problems: list[Markup] = []
        for status, response in operation["responses"].items():
            phrase = f"{status} {HTTPStatus(int(status)).phrase}"
            if int(status) < HTTPStatus.BAD_REQUEST:
                yield element("h4", "Answer ", element("span", phrase, class_="status"))
                for media_type, content in response["content"].items():
                    if media_type == "application/json":
                        yield self._whole(content["schema"], answered=True)
                    else:
                        yield element("p", "Of type ", element("code", media_type), ".")
                continue
            (content,) = response["content"].values()
            problems += [self._problem(status, code) for code in content["examples"]]
        yield element(
            "details",
            element("summary", element("h4", f"Problems ({len(problems)})")),
            element("ul", problems, class_="fields"),
        )

    def _problem(self, status: str, code: str) -> Markup:
        problem = self._problems[code]
        again = problem["value"]["retryable"]
        return element(
            "li",
            element("span", status, class_="status"),
            " ",
            element("code", code),
            " ",
            element("em", "may be sent again") if again else None,
            element("p", problem["summary"], "."),
        )

    def _samples(self, method: str, path: str, operation: Json) -> Iterator[Markup]:
        yield element("h4", "Request")
        origin = element("span", ORIGIN, class_="origin")
        before, _, after = command(method, path, operation).partition(ORIGIN)
        yield _code("Request", before, origin, after)
        for status, response in operation["responses"].items():
            content = response["content"].get("application/json", {})
            if int(status) < HTTPStatus.BAD_REQUEST and "example" in content:
                yield element("h4", "Answer")
                yield _code("Answer", in_lines(content["example"]))

    def _whole(self, schema: Json, *, answered: bool) -> Markup:
        """Return the fields of a body or an answer, or what it is when it has none."""
        description = self._schemas.resolve(schema).get("description")
        fields = self._fields(schema, GREATEST_NESTING, answered=answered)
        if not fields:
            fields = element("p", self._schemas.kind(schema).capitalize(), ".")
        return joined([element("p", prose(description)) if description else None, fields])

    def _fields(self, schema: Json, depth: int, *, answered: bool) -> Markup:
        """Return lists of the fields that the objects of a value have.

        Marked is what a reader would not expect: that a client has to send a field, or that an
        answer may lack one.
        """
        objects = self._schemas.nested(schema) if depth else []
        lists = []
        for at, one in enumerate(objects):
            if len(objects) > 1:
                word = "or " if at else "Either "
                lists.append(element("p", word, element("code", one["title"]), ":"))
            required = one.get("required", ())
            fields = []
            for name, described in one["properties"].items():
                mark = ""
                if (name in required) != answered:
                    mark = "may be absent" if answered else "required"
                within = self._fields(described, depth - 1, answered=answered)
                fields.append(self._field(name, described, mark=mark, within=within))
            lists.append(element("ul", fields, class_="fields") if fields else Markup(""))
        return joined(lists)

    def _field(
        self,
        name: str,
        schema: Json,
        *,
        mark: str,
        place: str = "",
        within: Markup | None = None,
    ) -> Markup:
        return element(
            "li",
            element("code", name),
            " ",
            element("span", self._schemas.kind(schema), class_="type"),
            element("span", f"in {place}", class_="type") if place else None,
            element("strong", mark) if mark else None,
            element("p", prose(self._described(schema))),
            element("details", element("summary", "Its fields"), within) if within else None,
        )

    def _described(self, schema: Json) -> str:
        said = [schema.get("description", "")]
        said += [variant.get("description", "") for variant in self._schemas.variants(schema)]
        limits = "; ".join(self._schemas.limits(schema))
        texts = [*dict.fromkeys(said), f"{limits[:1].upper()}{limits[1:]}." if limits else ""]
        return " ".join(filter(None, texts))


def _anchor(tag: str) -> str:
    return f"tag-{tag.replace(' ', '-')}"


def _title(tag: str) -> str:
    return f"{tag[:1].upper()}{tag[1:]}"


def _badge(method: str) -> Markup:
    return element("span", method, class_=f"method {method.lower()}")


def _broken(path: str) -> Markup:
    """Return a path that may go on in the next line after each of its parts."""
    parts = path.replace("/", "/\n").split("\n")
    return joined([parts[0], *((element("wbr"), part) for part in parts[1:])])


def _code(label: str, *children: Markup | str) -> Markup:
    """Return a block of code that can be scrolled without a mouse."""
    return element(
        "div",
        element("pre", element("code", children), tabindex="0", role="region", aria_label=label),
        class_="code",
    )
