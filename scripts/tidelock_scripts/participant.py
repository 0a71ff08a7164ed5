"""A participant of transactions to try them with: it says what it is called for.

`python -m scripts.tidelock_scripts.participant PORT [--refuse PATH …]` answers 200 to every POST,
or 409 where it is told to refuse.
"""

from __future__ import annotations

import argparse
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

_GREATEST_BODY_BYTES: Final = 1 << 20


class Participant(ThreadingHTTPServer):
    """Serves on the loopback."""

    def __init__(self, port: int, refused: frozenset[str]) -> None:
        super().__init__(("127.0.0.1", port), _Call)
        self.refused = refused


class _Call(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        content = self.rfile.read(min(length, _GREATEST_BODY_BYTES)).decode(errors="replace")
        server = self.server
        assert isinstance(server, Participant)
        refuses = self.path.strip("/") in server.refused
        print(f"{'refused' if refuses else 'done'} {self.path} {content}", flush=True)
        answer = b'{"message":"refused, as it was told"}' if refuses else b'{"id":7}'
        self.send_response(409 if refuses else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing beside what it was called for."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="participant", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--refuse", nargs="*", default=[], metavar="PATH")
    options = parser.parse_args(arguments)
    with Participant(options.port, frozenset(options.refuse)) as server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
