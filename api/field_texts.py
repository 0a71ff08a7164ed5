"""What is said below the fields of a struct, for the document: text is written once, in the source.

msgspec describes a struct by its docstring and knows nothing of the strings below its fields.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Any

import msgspec
from msgspec import inspect as types

Texts = dict[str, dict[str, str]]
"""What is said of each field of each class of a module, by name."""


def structs(described: Iterable[Any]) -> list[Any]:
    """Return every struct that these types are made of, generic ones with their parameters."""
    found: dict[Any, None] = {}
    for kind in types.multi_type_info(list(described)):
        found.update(dict.fromkeys(_within(kind)))
    return list(found)


def _within(kind: Any) -> Iterator[Any]:
    match kind:
        case types.StructType():
            yield kind.cls
            for field in kind.fields:
                yield from _within(field.type)
        case types.UnionType():
            for one in kind.types:
                yield from _within(one)
        case types.ListType():
            yield from _within(kind.item_type)
        case types.DictType():
            yield from _within(kind.value_type)
        case types.Metadata():
            yield from _within(kind.type)


def class_of(struct: Any) -> type[msgspec.Struct]:
    """Return the class of a struct that may have parameters."""
    cls: type[msgspec.Struct] = getattr(struct, "__origin__", struct)
    return cls


def of_struct(struct: Any) -> dict[str, str]:
    """Return what is said of the struct's fields, each under its name on the wire."""
    described = class_of(struct)
    said: dict[str, str] = {}
    for cls in reversed(described.__mro__):
        if issubclass(cls, msgspec.Struct) and cls is not msgspec.Struct:
            said.update(_of_module(cls.__module__).get(cls.__name__, {}))
    names = zip(described.__struct_fields__, described.__struct_encode_fields__, strict=True)
    return {encoded: said[name] for name, encoded in names if name in said}


@cache
def _of_module(name: str) -> Texts:
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    return {
        node.name: dict(_of_body(node.body)) for node in tree.body if isinstance(node, ast.ClassDef)
    }


def _of_body(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(body):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(said))),
            ):
                yield name, " ".join(said.split())
