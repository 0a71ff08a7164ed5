"""Structured logs: one line a record, fields beside the message, no secrets.

Modules log through the standard library and give fields by `extra=`:

    logger.info("became leader", extra={"term": 7, "index": 4012})

Records go to one handler at the root logger; PySyncObj's and aiohttp's take the same way. Writing
happens in a thread of its own behind a bounded queue, because standard error may be a pipe that
nobody reads, and a node must not stop for that.
"""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

REDACTED: Final = "[redacted]"

QUEUE_RECORDS: Final = 10_000
"""Records that may wait to be written; what comes on top is counted and dropped."""

GREATEST_TEXT: Final = 16_384
"""Characters of a message, field or traceback that are kept."""

DRAIN_TIMEOUT_S: Final = 2.0
"""How long a flush waits for the stream to take what is queued."""

_DEEPEST: Final = 6

# What a LogRecord has by itself; everything else came by `extra=`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_SECRET_NAME: Final = re.compile(
    r"(?:^|[_-])(?:authorization|cookie|password|passwd|passphrase|secret|credentials?|bearer"
    r"|api[_-]?key|private[_-]?key|signing[_-]?key|signature|tokens?)$",
    re.IGNORECASE,
)
# A fencing token orders the holders of a lock. It is no secret, and it is wanted in a log.
_NO_SECRETS: Final = frozenset({"fencing_token", "fencingtoken", "fencing-token"})

_CAMEL_HUMP: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

# The bounds keep the search linear: messages may quote what a client sent.
_SECRET_TEXT: Final = re.compile(
    r"""(?ix)
    (?P<label>
        (?: authorization | cookie ) ["']? \s{0,4} [:=] \s{0,4} ["']?
    ) [^\r\n"']+
    | (?P<named>
        (?: password | passwd | secret | api[_-]?key | (?<!fencing) (?<!fencing[_-]) token )
        ["']? \s{0,4} [:=] \s{0,4} ["']?
      | \b bearer \s{1,4}
    ) [^\s"'&,;}]+
    """
)


def configure_logging(
    *, level: str, json: bool, node_id: str, stream: TextIO | None = None
) -> QueuedHandler:
    """Send all records of `level` and above to `stream` (default: standard error).

    A second call replaces the first. The handler is flushed and closed by `logging.shutdown`,
    which the interpreter calls at its end; call it yourself before `os._exit`.
    """
    formatter = JsonFormatter(node_id) if json else TextFormatter(node_id)
    handler = QueuedHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    handler.addFilter(SecretFilter())
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known, QueuedHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    _route_libraries()
    logging.captureWarnings(True)
    return handler


def _route_libraries() -> None:
    """Let library loggers use the root's handler only, and say no more than is of use."""
    for name in ("pysyncobj", "aiohttp", "asyncio"):
        library = logging.getLogger(name)
        library.propagate = True
        for handler in list(library.handlers):
            library.removeHandler(handler)
    for name in list(logging.Logger.manager.loggerDict):
        if name.startswith("pysyncobj."):
            child = logging.getLogger(name)
            child.propagate = True
            for handler in list(child.handlers):
                child.removeHandler(handler)
    logging.getLogger("pysyncobj").setLevel(logging.WARNING)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what was given by `extra=`."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and not name.startswith("_")
    }


def is_secret_name(name: str) -> bool:
    """Whether a field or header of this name holds what must not be logged."""
    if name.lower() in _NO_SECRETS:
        return False
    return _SECRET_NAME.search(_CAMEL_HUMP.sub("_", name)) is not None


def redact(text: str) -> str:
    """Return `text` without what looks like a credential."""
    return _SECRET_TEXT.sub(lambda found: (found["label"] or found["named"]) + REDACTED, text)


class SecretFilter(logging.Filter):
    """Removes fields that hold credentials and blanks credentials out of messages.

    The record itself is changed, so no other handler can let them slip either.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in fields_of(record).items():
            if is_secret_name(name):
                delattr(record, name)
            else:
                setattr(record, name, _cleaned(value, _DEEPEST))
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = f"{record.msg} {record.args!r} (the arguments do not fit the message)"
        record.msg, record.args = redact(message[:GREATEST_TEXT]), ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if record.exc_text:
            record.exc_text = redact(record.exc_text[-GREATEST_TEXT:])
        record.exc_info = None
        return True


def _cleaned(value: object, depth: int) -> object:
    """Return `value` as plain data: texts, numbers, lists and dicts, without secrets."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return redact(str(value)[:GREATEST_TEXT])
        case bytes() | bytearray() | memoryview():
            return bytes(value[: GREATEST_TEXT // 2]).hex()
    if depth == 0:
        return redact(repr(value)[:GREATEST_TEXT])
    if isinstance(value, Mapping):
        return {
            str(key): _cleaned(item, depth - 1)
            for key, item in list(value.items())[:1000]
            if not is_secret_name(str(key))
        }
    if isinstance(value, list | tuple):
        return [_cleaned(item, depth - 1) for item in value[:1000]]
    return redact(str(value)[:GREATEST_TEXT])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, node, msg, then fields, then `exc`."""

    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": _timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "node": self._node_id,
            "msg": record.getMessage(),
        }
        for name, value in fields_of(record).items():
            line[f"{name}_" if name in line or name == "exc" else name] = value
        if record.exc_text:
            line["exc"] = record.exc_text
        # Lone surrogates, as in file names that are not UTF-8, have no place in JSON.
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:
            return msgspec.json.encode(_without_surrogates(line), enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """One line for people: time, level, node, logger, message, then fields as name=value."""

    def __init__(self, node_id: str) -> None:
        super().__init__()
        self._node_id = node_id

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(
            f" {name}={_one_line(_shown(value))}" for name, value in fields_of(record).items()
        )
        head = (
            f"{_timestamp(record.created)} {record.levelname:<8} {self._node_id} {record.name}: "
            f"{_one_line(record.getMessage())}{fields}"
        )
        if not record.exc_text:
            return head
        return head + "".join(f"\n    {_one_line(line)}" for line in record.exc_text.splitlines())


def _timestamp(created_s: float) -> str:
    moment = datetime.fromtimestamp(created_s, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value if value and " " not in value else f'"{value}"'
    return msgspec.json.encode(value, enc_hook=str).decode("utf-8", "replace")


def _one_line(text: str) -> str:
    """Return `text` so that it can neither begin a line of its own nor steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


def _without_surrogates(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
        case list():
            return [_without_surrogates(item) for item in value]
        case _:
            return value


class QueuedHandler(logging.Handler):
    """Formats records where they are logged and writes them in a thread of its own."""

    def __init__(self, stream: TextIO, *, capacity: int = QUEUE_RECORDS) -> None:
        super().__init__()
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(capacity)
        self._dropped = 0
        self._closed = False
        self._writer = threading.Thread(target=self._write_lines, name="logs", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        try:
            if self._dropped:
                self._lines.put_nowait(self._notice_of_loss(record))
                self._dropped = 0
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def flush(self) -> None:
        """Wait until what is queued has been written, for a bounded time."""
        deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
        while self._lines.unfinished_tasks and self._writer.is_alive():
            if time.monotonic() >= deadline_s:
                return
            time.sleep(0.001)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.flush()
            try:
                self._lines.put_nowait(None)
            except queue.Full:
                pass  # nobody reads the stream: the daemon thread ends with the process
            else:
                self._writer.join(DRAIN_TIMEOUT_S)
        super().close()

    def _notice_of_loss(self, record: logging.LogRecord) -> str:
        notice = logging.LogRecord(
            __name__, logging.WARNING, __file__, 0, "log records were dropped", (), None
        )
        notice.dropped = self._dropped
        notice.created = record.created
        return self.format(notice)

    def _write_lines(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._stream.write(line + "\n")
                if self._lines.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                pass  # the stream is gone, and there is nowhere left to say so
            finally:
                self._lines.task_done()
        self._lines.task_done()
