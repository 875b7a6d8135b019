"""Checking an option's value against its annotation: the type, the choices, the bound."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from humanpref.schema import InputError


@dataclass(frozen=True)
class Bound:
    """A test on a value, and the words for what passes it. Goes into an option's `Annotated`."""

    expected: str
    holds: Callable[[Any], bool]


def at_least(least: float) -> Bound:
    """The bound value >= least."""
    return Bound(f"at least {least}", lambda value: value >= least)


def whole(low: int, high: int, unit: str = "") -> Bound:
    """The bound low <= value <= high, in `unit`s if one is given."""
    expected = f"{low} to {high} {unit}" if unit else f"a whole number from {low} to {high}"
    return Bound(expected, lambda value: low <= value <= high)


Count = Annotated[int, at_least(1)]
NonNegative = Annotated[float, at_least(0)]
Positive = Annotated[float, Bound("above 0", lambda value: value > 0)]
Share = Annotated[float, Bound("a number in [0, 1)", lambda value: 0 <= value < 1)]
OpenShare = Annotated[float, Bound("a number between 0 and 1", lambda value: 0 < value < 1)]
Name = Annotated[str, Bound("a folder or a hub name", lambda value: value != "")]
Penalties = Annotated[
    tuple[float, ...], Bound("positive numbers", lambda values: bool(values) and min(values) > 0)
]


class Options:
    """A section of a configuration: a frozen dataclass that checks its values when it is built.

    Raises
    ------
    InputError
        For a value that does not fit its annotation; the message names the option.
    """

    section: ClassVar[str] = "model"

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            value = checked(f"{self.section}.{name}", hint, getattr(self, name))
            object.__setattr__(self, name, value)

    def require(self, holds: bool, name: str, expected: str) -> None:
        """Raise InputError for option `name` unless a condition on several options holds."""
        if not holds:
            refuse(f"{self.section}.{name}", expected, getattr(self, name))


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, `Annotated` and all."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def parts_of(hint: Any) -> tuple[Any, Bound | None, bool]:
    """An annotation's type without `None` and bound, the bound if it has one, and whether it admits
    None."""
    inner = (
        typing.get_args(hint)
        if typing.get_origin(hint) in (typing.Union, types.UnionType)
        else (hint,)
    )
    base = next(each for each in inner if each is not type(None))
    bound = base.__metadata__[0] if typing.get_origin(base) is Annotated else None
    return (base.__origin__ if bound else base), bound, type(None) in inner


def checked(option: str, hint: Any, value: Any) -> Any:
    """The value as its annotation has it: whole numbers pass as floats, lists and single items as
    tuples, nothing else is bent.

    Raises
    ------
    InputError
        If it does not fit; the message starts with the option's name.
    """
    kind, bound, optional = parts_of(hint)
    if optional and (value is None or value == "none"):
        return None
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        return value if value in choices else refuse(option, f"one of {', '.join(choices)}", value)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        items = list(value) if isinstance(value, list | tuple) else [value]
        items = [_widened(item, each) for each in items]
        if any(type(each) is not item for each in items):
            refuse(option, f"a list of {'numbers' if item is float else 'texts'}", value)
        value = tuple(items)
    elif type(value := _widened(kind, value)) is not kind:
        refuse(option, f"{kind.__name__}{' or none' if optional else ''}", value)
    if not all(math.isfinite(number) for number in _numbers(value)):
        refuse(option, "a finite number", value)
    if bound is not None and not bound.holds(value):
        refuse(option, bound.expected, value)
    return value


def _widened(kind: type, value: Any) -> Any:
    return float(value) if kind is float and type(value) is int and abs(value) < 1e300 else value


def _numbers(value: Any) -> list[float]:
    return [
        each
        for each in (value if isinstance(value, tuple) else (value,))
        if isinstance(each, float)
    ]


def refuse(option: str, expected: str, value: Any) -> typing.NoReturn:
    """Raise the InputError for an option's value."""
    raise InputError(f"option {option}: expected {expected}, got {value!r}")
