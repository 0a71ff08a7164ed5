"""Answers of DTM's protocol. A client takes one for a success whose status is 200 and in which
there is no `FAILURE`.

    200   {"dtm_result": "SUCCESS"}, or an object
    409   {"dtm_result": "FAILURE", "message": "… FAILURE"}: it will never be
    425   {"dtm_result": "ONGOING", "message": …}: a branch is still at it
    500   {"message": …}: anything else, whoever is to blame
    400   text/plain with JSON in it: a registration or a JSON-RPC request that cannot be read
"""

from __future__ import annotations

import enum
import logging
from typing import Final

import msgspec

from api.cluster import OutcomeUnknownError
from api.errors import INTERNAL, of_exception
from api.replies import JSON, Replies, Reply
from statemachine.outcomes import AnyResult, Applied, Outcome, Rejected, RejectionCode

TEXT: Final = "text/plain"
FAILURE: Final = "FAILURE"

SUCCESS_BODY: Final = b'{"dtm_result":"SUCCESS"}'

_NOT_FOUND_BODY: Final = b"404 page not found"

_NEVER: Final = frozenset(
    {
        RejectionCode.TRANSACTION_DECIDED,
        RejectionCode.TRANSACTION_NOT_ACTIVE,
        RejectionCode.TRANSACTION_EXISTS,
    }
)
"""What no repetition changes."""

_UNKNOWN: Final = (
    "the request may have been done or may still be; send it again: under the same gid nothing is "
    "done twice"
)

_log: Final = logging.getLogger(__name__)


class Kind(enum.Enum):
    """What an error means to DTM's clients."""

    FAILURE = 409
    ONGOING = 425
    BINDING = 400
    ERROR = 500


class DtmError(Exception):
    """What is answered instead of a success."""

    def __init__(self, message: str, *, binding: bool = False, kind: Kind = Kind.ERROR) -> None:
        super().__init__(message)
        self.message = message
        self.kind = Kind.BINDING if binding else kind


def failure(message: str) -> DtmError:
    """Return a definite failure, in DTM's manner of saying so."""
    return DtmError(f"{message} {FAILURE}", kind=Kind.FAILURE)


def ongoing(message: str) -> DtmError:
    return DtmError(f"{message} ONGOING", kind=Kind.ONGOING)


def of_error(error: Exception) -> DtmError:
    """Return what an error of any sort is to DTM's clients."""
    if isinstance(error, DtmError):
        return error
    if isinstance(error, OutcomeUnknownError):
        return DtmError(_UNKNOWN)
    problem = of_exception(error)
    if problem is None:
        _log.error("A request of DTM's protocol failed", exc_info=error)
        problem = INTERNAL
    return DtmError(problem.detail)


def result_of(outcome: Outcome) -> AnyResult:
    """Raises: DtmError: it was rejected."""
    if isinstance(outcome, Rejected):
        raise failure(outcome.detail) if outcome.code in _NEVER else DtmError(outcome.detail)
    assert isinstance(outcome, Applied), "what waits is awaited first"
    return outcome.result


class DtmAnswers:
    """Makes the answers of one node."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies

    def success(self) -> Reply:
        return self._replies.of_bytes(200, JSON, SUCCESS_BODY)

    def object(self, found: object) -> Reply:
        return self._replies.of_bytes(200, JSON, msgspec.json.encode(found))

    def error(self, error: DtmError) -> Reply:
        said: dict[str, str] = {"message": error.message}
        if error.kind in (Kind.FAILURE, Kind.ONGOING):
            said = {"dtm_result": error.kind.name, **said}
        content_type = TEXT if error.kind is Kind.BINDING else JSON
        return self._replies.of_bytes(error.kind.value, content_type, msgspec.json.encode(said))

    def not_found(self) -> Reply:
        return self._replies.of_bytes(404, TEXT, _NOT_FOUND_BODY)

    def text(self, status: int, text: str) -> Reply:
        return self._replies.of_bytes(status, TEXT, text.encode())
