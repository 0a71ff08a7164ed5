from typing import Self

class TransBase:
    wait_result: bool

class Saga:
    trans_base: TransBase
    def __init__(self, dtmUrl: str, gid: str) -> None: ...
    def add(self, body: object, actionUrl: str, compensateUrl: str) -> Self: ...
    def submit(self) -> None: ...
