"""The part of msgpack that is used here."""

from typing import Any

from . import exceptions as exceptions

class Packer:
    def __init__(self, *, use_bin_type: bool = ..., autoreset: bool = ...) -> None: ...
    def pack(self, value: object) -> bytes: ...

def packb(value: object, *, use_bin_type: bool = ...) -> bytes: ...

# Any: what was packed is known to the caller alone.
def unpackb(
    packed: bytes | bytearray | memoryview,
    *,
    use_list: bool = ...,
    raw: bool = ...,
    strict_map_key: bool = ...,
    max_buffer_size: int = ...,
) -> Any: ...
