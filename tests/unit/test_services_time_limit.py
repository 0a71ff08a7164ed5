"""Business that does not end by itself."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from services import time_limit as module
from services.time_limit import time_limit
from tests.meta.documents import ROOT
from tidelock.services import BusinessError


def within_limit(work: Callable[[], None]) -> None:
    with time_limit(50, "Business LOOP"):
        work()


def loop() -> None:
    while True:
        pass


def test_what_loops_is_interrupted_and_says_so() -> None:
    with pytest.raises(BusinessError, match="Business LOOP took longer than 50 ms"):
        within_limit(loop)


def test_what_swallows_every_exception_of_business_is_interrupted_all_the_same() -> None:
    def swallow() -> None:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.001)

    with pytest.raises(BusinessError):
        within_limit(swallow)


def test_what_swallows_even_more_is_interrupted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.05)
    swallowed: list[BaseException] = []

    def swallow_once() -> None:
        try:
            loop()
        except BaseException as error:
            swallowed.append(error)
        loop()

    with pytest.raises(BusinessError):
        within_limit(swallow_once)
    assert len(swallowed) == 1


def test_nothing_is_raised_after_the_end() -> None:
    """However near to each other the end and the limit come."""

    def run(pause_s: float, out: list[str]) -> None:
        try:
            with time_limit(10, "Business"):
                time.sleep(pause_s)
        except BusinessError:
            out.append("interrupted")
        else:
            out.append("done")
        for _ in range(1_000):
            pass

    for number in range(40):
        out: list[str] = []
        thread = threading.Thread(target=run, args=(0.009 + number * 0.00005, out))
        thread.start()
        thread.join(10)
        assert len(out) == 1


def test_what_waits_in_the_system_ends_with_its_process() -> None:
    program = (
        "import time\n"
        "from services import time_limit\n"
        "time_limit.PATIENCE_S = time_limit._AGAIN_S = 0.05\n"
        "with time_limit.time_limit(10, 'Business'):\n"
        "    time.sleep(60)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=30, check=False
    )
    assert ended.returncode == 1
    assert b"cannot be interrupted" in ended.stderr
