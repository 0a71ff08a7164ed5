"""The arguments of a step as JSON, and back again for its compensation.

What comes back is what was given: a parameter that is annotated as `Decimal`, `date`, `UUID`, a
dataclass or any other type that msgspec knows is made that again. One without an annotation gets
what JSON has.
"""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Arguments:
    """The parameters of a step behind its first one, the context."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises: TypeError: a parameter has no name of its own, or a type that nobody knows."""
        self._name = getattr(function, "__qualname__", repr(function))
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters or parameters[0].kind not in (_POSITIONAL_ONLY, _NAMED[0]):
            raise TypeError(f"{self._name} takes no context: its first parameter is for that")
        self._parameters = parameters[1:]
        for each in self._parameters:
            if each.kind not in _NAMED:
                raise TypeError(
                    f"{self._name}: {each} has no name of its own by which a compensation could "
                    "get it; write each parameter out"
                )
        self._signature = inspect.Signature(self._parameters)
        self._types = self._resolved(function)
        self._decoders = {name: self._decoder(name, kind) for name, kind in self._types.items()}

    def _resolved(self, function: Callable[..., Any]) -> dict[str, Any]:
        """Return the type of each parameter. Other annotations need not mean anything here."""

        def annotated() -> None: ...

        annotations = getattr(function, "__annotations__", {})
        annotated.__annotations__ = {
            each.name: annotations.get(each.name, Any) for each in self._parameters
        }
        inner = inspect.unwrap(function)
        variables = inspect.getclosurevars(inner).nonlocals if inspect.isfunction(inner) else {}
        try:
            return typing.get_type_hints(
                annotated, globalns=getattr(inner, "__globals__", {}), localns=dict(variables)
            )
        except NameError as error:
            raise TypeError(
                f"{self._name}: {error}; types of parameters must be importable where the step "
                "runs, so import them outside of TYPE_CHECKING"
            ) from None

    def _decoder(self, name: str, kind: Any) -> msgspec.json.Decoder[Any]:
        try:
            return msgspec.json.Decoder(kind)
        except TypeError as error:
            raise TypeError(f"{self._name}: {name} cannot be made of JSON: {error}") from None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""
        return tuple(self._types)

    def check_undone_by(self, compensate: Callable[..., Any]) -> None:
        """See that a compensation can be called with the same arguments.

        Raises:
            TypeError: it cannot.
        """
        try:
            inspect.signature(compensate).bind(None, **dict.fromkeys(self.names))
        except TypeError as error:
            raise TypeError(
                f"{getattr(compensate, '__qualname__', compensate)} cannot be called with the "
                f"arguments of {self._name}: {error}"
            ) from None

    def check_names(self, given: Mapping[str, object]) -> None:
        """See that arguments by name are those of the step.

        Raises:
            ValueError: one is missing, or is none of its.
        """
        unknown = [name for name in given if name not in self._types]
        if unknown:
            raise ValueError(f"{self._name} has no argument {', '.join(unknown)}")
        for each in self._parameters:
            if each.name not in given and each.default is inspect.Parameter.empty:
                raise ValueError(f"{self._name}: {each.name} is missing")

    def encoded(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by name, as JSON has them.

        Raises:
            TypeError: the call does not fit the function.
            ValueError: an argument is not JSON's, or does not come back as what it is.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        found: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            try:
                text = msgspec.json.encode(value)
                if b"null" in text:
                    _check_finite(value)
                self._decoders[name].decode(text)
            except (TypeError, ValueError, RecursionError) as error:
                raise ValueError(
                    f"{self._name}: {name} cannot be kept for the compensation, which needs it as "
                    f"JSON: {error}"
                ) from None
            found[name] = msgspec.json.decode(text)
        return found

    def decoded(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `encoded` was given; what else is in `data` is left out.

        Raises:
            ValueError: something is missing, or of another type.
        """
        return self.read({name: msgspec.json.encode(value) for name, value in data.items()})

    def read(self, texts: Mapping[str, bytes | msgspec.Raw]) -> dict[str, Any]:
        """Return the arguments of JSON texts by name; what has a default may be missing.

        Raises:
            ValueError: something is missing, or of another type.
        """
        found: dict[str, Any] = {}
        for each in self._parameters:
            text = texts.get(each.name)
            if text is None:
                if each.default is inspect.Parameter.empty:
                    raise ValueError(f"{self._name}: {each.name} is missing")
                found[each.name] = each.default
                continue
            try:
                found[each.name] = self._decoders[each.name].decode(text)
            except (msgspec.DecodeError, ValueError) as error:
                raise ValueError(f"{self._name}: {each.name}: {error}") from None
        return found


_POSITIONAL_ONLY: Final = inspect.Parameter.POSITIONAL_ONLY


def _check_finite(value: object) -> None:
    """Raise ValueError if there is a float in it that JSON does not have, and makes null."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for each in value:
            _check_finite(each)
