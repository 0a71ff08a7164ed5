"""DTM's JSON-RPC 2.0: the same methods, with an error beside the result.

-32700   the request is not JSON: the only one that is not answered with 200
-32600   it is no request: no `id`, or another version
-32601   there is no such method
-32603   it failed
-32901   a definite failure
-32902   a branch is still at it
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from api import requests
from api.gateways.dtm_answers import TEXT, DtmError, Kind, of_error
from api.gateways.dtm_bodies import body_of, flat_strings, read_object
from api.gateways.dtm_service import DtmService, new_gid
from api.replies import JSON, Replies, Reply
from api.settings import ApiSettings

PARSE_ERROR: Final = -32700
BAD_REQUEST: Final = -32600
NO_METHOD: Final = -32601
FAILED: Final = -32603

_CODES: Final = {Kind.FAILURE: -32901, Kind.ONGOING: -32902}

Method = Callable[[web.Request, dict[str, Any]], Awaitable[dict[str, str]]]

_SUCCESS: Final = {"dtm_result": "SUCCESS"}


class JsonRpcError(msgspec.Struct):
    """What went wrong."""

    code: int
    message: str


class JsonRpcAnswer(msgspec.Struct):
    """Either an error or a result, the other one null."""

    jsonrpc: str
    id: str
    error: JsonRpcError | None
    result: dict[str, str] | None


class DtmJsonRpc:
    """The handler of `POST /api/json-rpc`."""

    def __init__(self, service: DtmService, replies: Replies, settings: ApiSettings) -> None:
        self._service = service
        self._replies = replies
        self._settings = settings
        self._methods: dict[str, Method] = {
            "newGid": self._new_gid,
            "prepare": self._prepare,
            "submit": self._submit,
            "abort": self._abort,
            "registerBranch": self._register,
        }

    async def serve(self, request: web.Request) -> Reply:
        try:
            content = await requests.read_body(request, self._settings)
            asked = read_object(content)
        except DtmError as error:
            why = f"Parse json error: {error.message}"
            return self._answer("", JsonRpcError(PARSE_ERROR, why), None, status=400)
        named = {name.lower(): value for name, value in asked.items()}
        request_id, method = named.get("id"), named.get("method")
        if not isinstance(request_id, str) or not request_id or named.get("jsonrpc") != "2.0":
            why = "Bad json request: id must be a non-empty string and jsonrpc must be 2.0"
            known = request_id if isinstance(request_id, str) else ""
            return self._answer(known, JsonRpcError(BAD_REQUEST, why), None)
        found = self._methods.get(method) if isinstance(method, str) else None
        if found is None:
            why = f"Method not found: {str(method)[:100]}"
            return self._answer(request_id, JsonRpcError(NO_METHOD, why), None)
        params = named.get("params")
        try:
            result = await found(request, params if isinstance(params, dict) else {})
        except ConnectionResetError:
            raise
        except Exception as error:
            failed = of_error(error)
            code = _CODES.get(failed.kind, FAILED)
            return self._answer(request_id, JsonRpcError(code, failed.message), None)
        return self._answer(request_id, None, result)

    def _answer(
        self,
        request_id: str,
        error: JsonRpcError | None,
        result: dict[str, str] | None,
        *,
        status: int = 200,
    ) -> Reply:
        body = msgspec.json.encode(JsonRpcAnswer("2.0", request_id, error, result))
        return self._replies.of_bytes(status, JSON if status == 200 else TEXT, body)

    # --- methods

    async def _new_gid(self, _: web.Request, params: dict[str, Any]) -> dict[str, str]:
        return {"gid": new_gid(), **_SUCCESS}

    async def _prepare(self, request: web.Request, params: dict[str, Any]) -> dict[str, str]:
        await self._service.prepare(request, body_of(params))
        return _SUCCESS

    async def _submit(self, request: web.Request, params: dict[str, Any]) -> dict[str, str]:
        await self._service.submit(request, body_of(params))
        return _SUCCESS

    async def _abort(self, request: web.Request, params: dict[str, Any]) -> dict[str, str]:
        await self._service.abort(request, body_of(params))
        return _SUCCESS

    async def _register(self, request: web.Request, params: dict[str, Any]) -> dict[str, str]:
        await self._service.register(request, flat_strings(params))
        return _SUCCESS
