"""A real Chromium, driven by Playwright, which looks at pages of a served API."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from playwright.async_api import Browser, Page, async_playwright

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

ABSENT: Final = (
    "There is no Chromium on this machine. Run `apt-get install chromium` as root (scripts/test, "
    "run by root, does it by itself), or leave these tests out: -m 'not long and not browser'."
)

# No sandbox: Chromium refuses one to root. The rest keeps it from asking the world for news.
_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.fail(ABSENT, pytrace=False)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


class Looker:
    """A page of the browser that remembers whatever should not have happened."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        page.on("request", lambda request: self.asked.append(request.url))

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self.origin}{path}")

    async def run(self, script: str) -> Any:
        return await self.page.evaluate(script)

    def complaints(self) -> list[str]:
        """Return what was said to the console, and what was asked of others than the node."""
        strangers = [url for url in self.asked if not url.startswith((f"{self.origin}/", "data:"))]
        return self.said + strangers
