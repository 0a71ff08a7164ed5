"""JSON as sagas compute with it: the same on every node, whatever its processor.

Integers are integers, and every other number is a decimal with 34 digits (IEEE 754 decimal128), so
there is no binary floating point. Nesting and size have bounds that are checked before anything
descends into a value.
"""

from __future__ import annotations

import re
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DecimalException,
    DivisionByZero,
    InvalidOperation,
    Overflow,
)
from typing import Any, Final

import msgspec

GREATEST_DEPTH: Final = 64
"""Objects and arrays within each other."""

GREATEST_INTEGER: Final = 2**63 - 1
LEAST_INTEGER: Final = -(2**63)
_GREATEST_EXPONENT: Final = 6_000
_GREATEST_NUMBER_LENGTH: Final = 100

_CONTEXT: Final = Context(
    prec=34,
    rounding=ROUND_HALF_EVEN,
    Emin=-_GREATEST_EXPONENT,
    Emax=_GREATEST_EXPONENT,
    traps=[InvalidOperation, DivisionByZero, Overflow],
)

_TEXT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


class UnusableValueError(ValueError):
    """A value that sagas do not compute with; the message says why."""


def _number(text: str) -> Decimal:
    """Read a number with a fraction or an exponent."""
    if len(text) > _GREATEST_NUMBER_LENGTH:
        raise UnusableValueError(f"a number has {len(text)} characters")
    try:
        return _CONTEXT.create_decimal(text)
    except DecimalException:
        raise UnusableValueError(f"the number {text} is too great") from None


_decoder: Final = msgspec.json.Decoder(float_hook=_number)
_encode: Final = msgspec.json.Encoder(decimal_format="number").encode


def decode(data: bytes) -> Any:
    """Return the value of a JSON text. Raises: UnusableValueError"""
    _check_depth(data)
    try:
        value = _decoder.decode(data)
    except msgspec.DecodeError as error:
        # What a hook raises is told as its cause.
        cause = error.__cause__
        raise UnusableValueError(str(cause or error)) from None
    except UnicodeDecodeError:
        raise UnusableValueError("the text is not UTF-8") from None
    return _checked(value)


def encode(value: Any, greatest_bytes: int) -> bytes:
    """Return the JSON text of a value. Raises: UnusableValueError"""
    data = _encode(value)
    if len(data) > greatest_bytes:
        raise UnusableValueError(f"it has {len(data)} bytes, at most {greatest_bytes} are kept")
    _check_depth(data)
    return data


def _check_depth(data: bytes) -> None:
    if data.count(b"[") + data.count(b"{") <= GREATEST_DEPTH:
        return
    depth = 0
    for byte in _TEXT.sub(b"", data):
        if byte in b"[{":
            depth += 1
            if depth > GREATEST_DEPTH:
                raise UnusableValueError(f"it is nested more than {GREATEST_DEPTH} levels deep")
        elif byte in b"]}":
            depth -= 1


def _checked(value: Any) -> Any:
    """Return the value, integers beyond 64 bits in it made decimals."""
    if type(value) is int and not LEAST_INTEGER <= value <= GREATEST_INTEGER:
        return _number(str(value)) if abs(value) < 10**90 else _number("1" * 101)
    if type(value) is dict:
        return {name: _checked(each) for name, each in value.items()}
    if type(value) is list:
        return [_checked(each) for each in value]
    return value


def is_number(value: Any) -> bool:
    return type(value) in (int, Decimal)


def equal(left: Any, right: Any) -> bool:
    """Compare as JSON does: true is not 1, and 1.0 is."""
    if is_number(left) and is_number(right):
        return bool(left == right)
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[name], right[name]) for name in left)
    return bool(left == right)


def calculate(operator: str, left: Any, right: Any) -> Any:
    """Return the sum, difference, product, quotient or remainder of two numbers.

    Whole results of integers are integers, and a quotient is exact as far as 34 digits go.

    Raises:
        UnusableValueError: there is no such number.
    """
    try:
        if type(left) is int and type(right) is int:
            return _of_integers(operator, left, right)
        return _of_decimals(operator, Decimal(left), Decimal(right))
    except DecimalException:
        raise UnusableValueError(f"{left} {operator} {right} is no number") from None


def _of_integers(operator: str, left: int, right: int) -> Any:
    if operator in "/%":
        if right == 0:
            raise UnusableValueError(f"{left} {operator} 0 is no number")
        if operator == "/":
            whole, rest = divmod(left, right)
            return whole if rest == 0 else _CONTEXT.divide(Decimal(left), Decimal(right))
        rest = abs(left) % abs(right)
        return -rest if left < 0 else rest
    match operator:
        case "+":
            result = left + right
        case "-":
            result = left - right
        case _:
            result = left * right
    if not LEAST_INTEGER <= result <= GREATEST_INTEGER:
        raise UnusableValueError(f"{left} {operator} {right} is beyond 64 bits")
    return result


def _of_decimals(operator: str, left: Decimal, right: Decimal) -> Decimal:
    match operator:
        case "+":
            return _CONTEXT.add(left, right)
        case "-":
            return _CONTEXT.subtract(left, right)
        case "*":
            return _CONTEXT.multiply(left, right)
        case "/":
            return _CONTEXT.divide(left, right)
        case _:
            return _CONTEXT.remainder(left, right)
