"""What the scripts print: colours and moving lines on a terminal, plain lines anywhere else."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TextIO

_RESET = "\x1b[0m"
_CLEAR_LINE = "\r\x1b[2K"


class Terminal:
    """Prints to one stream; colours only when a person is looking at it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self.interactive = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._coloured = self.interactive and "NO_COLOR" not in os.environ
        self._moving = False

    def line(self, text: str = "") -> None:
        self._settle()
        print(text, file=self._stream, flush=True)

    def progress(self, text: str) -> None:
        """Show what is going on, in place on a terminal; elsewhere nothing, to keep logs short."""
        if not self.interactive:
            return
        width = os.get_terminal_size(self._stream.fileno()).columns
        print(_CLEAR_LINE + text[: max(width - 1, 1)], end="", file=self._stream, flush=True)
        self._moving = True

    def _settle(self) -> None:
        if self._moving:
            print(_CLEAR_LINE, end="", file=self._stream)
            self._moving = False

    def strong(self, text: str) -> str:
        return self._painted("\x1b[1m", text)

    def good(self, text: str) -> str:
        return self._painted("\x1b[32m", text)

    def bad(self, text: str) -> str:
        return self._painted("\x1b[31m", text)

    def faint(self, text: str) -> str:
        return self._painted("\x1b[2m", text)

    def _painted(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_RESET}" if self._coloured else text

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print columns as wide as their content, with two spaces between them."""
        widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]

        def laid_out(cells: Sequence[str]) -> str:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            return "  ".join(padded).rstrip()

        self.line(self.strong(laid_out(header)))
        for row in rows:
            self.line(laid_out(row))
