"""Check an option's value against its annotation: its type, its choices and its bound."""

import dataclasses
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from humanpref.schema import InputError


@dataclass(frozen=True)
class Bound:
    """A condition on an option's value, and a description of the values that satisfy it. An
    option's bound is part of its `Annotated` type."""

    expected: str
    holds: Callable[[Any], bool]


def at_least(least: float) -> Bound:
    """Return the bound `value >= least`."""
    return Bound(f"at least {least}", lambda value: value >= least)


def whole(low: int, high: int, unit: str = "") -> Bound:
    """Return the bound `low <= value <= high`; its description names `unit` if one is given."""
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
    """A section of a configuration: a frozen dataclass that checks its values when it is created.

    Raises
    ------
    InputError
        For a value that does not match its annotation; the message names the option.
    """

    section: ClassVar[str] = "model"
    used_with: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {}
    """Options that have an effect only if another option of the section has certain values, each
    mapped to the name of the other option and these values."""

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            value = checked(f"{self.section}.{name}", hint, getattr(self, name))
            object.__setattr__(self, name, value)

    def idle(self) -> dict[str, str]:
        """Return the options that have no effect, each mapped to the name of the option whose value
        disables it."""
        return {
            name: other
            for name, (other, values) in self.used_with.items()
            if getattr(self, other) not in values
        }

    def require(self, holds: bool, name: str, expected: str) -> None:
        """Raise InputError for option `name` unless `holds` is true. `holds` is the result of a
        check that involves several options."""
        if not holds:
            refuse(f"{self.section}.{name}", expected, getattr(self, name))


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """Return the annotation of each field of a dataclass, including `Annotated` metadata."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def parts_of(hint: Any) -> tuple[Any, Bound | None, bool]:
    """Return the type that an annotation names, its bound (None if it has none), and whether it
    allows None."""
    optional = type(None) in typing.get_args(hint)
    base = typing.get_args(hint)[0] if optional else hint
    bound = base.__metadata__[0] if typing.get_origin(base) is Annotated else None
    return (base.__origin__ if bound else base), bound, optional


def checked(option: str, hint: Any, value: Any) -> Any:
    """Check a value against its annotation, and return it converted to the annotated type.

    An int becomes a float if a float is expected, a list or a single item becomes a tuple if a
    tuple is expected, and "none" becomes None if None is allowed. Nothing else is converted.

    Raises
    ------
    InputError
        If the value does not match; the message starts with the option's name.
    """
    kind, bound, optional = parts_of(hint)
    if optional and value in (None, "none"):
        return None
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        return value if value in choices else refuse(option, f"one of {', '.join(choices)}", value)
    is_list = typing.get_origin(kind) is tuple
    if is_list:
        kind = typing.get_args(kind)[0]
        expected = f"a list of {'numbers' if kind is float else 'texts'}"
    else:
        expected = f"{kind.__name__}{' or none' if optional else ''}"
    items = tuple(value) if is_list and isinstance(value, list | tuple) else (value,)
    if kind is float:
        items = tuple(map(_widened, items))
    if any(type(item) is not kind for item in items):
        refuse(option, expected, value)
    value = items if is_list else items[0]
    if kind is float and not all(map(math.isfinite, items)):
        refuse(option, "a finite number", value)
    if bound is not None and not bound.holds(value):
        refuse(option, bound.expected, value)
    return value


def _widened(value: Any) -> Any:
    """Convert an int to a float if it is within a float's range; return anything else unchanged."""
    return float(value) if type(value) is int and abs(value) < 1e300 else value


def refuse(option: str, expected: str, value: Any) -> typing.NoReturn:
    """Raise an InputError that rejects an option's value."""
    raise InputError(f"option {option}: expected {expected}, got {value!r}")
