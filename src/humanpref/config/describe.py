"""What each option of a preset is: its value, its type and its description, read from where the
option is defined."""

import ast
import inspect
import itertools
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from humanpref.config.bounds import hints_of, parts_of
from humanpref.config.families import SECTIONS, Config


@dataclass(frozen=True)
class Option:
    """One option of a configuration."""

    key: str
    """As `--set` takes it: `training.epochs`."""
    value: Any
    kind: str
    """Type and bound, or the choices: `int, at least 1`."""
    text: str
    """One sentence or more."""


def options_of(config: Config) -> list[Option]:
    """Every option of a configuration, in the order of definition.

    Examples
    --------
    >>> from humanpref.config import load_config
    >>> options_of(load_config("prior"))[0].kind
    "float, 0, or 1/k for a whole number k from 2 to a million"
    """
    return [
        Option(
            f"{section}.{name}",
            getattr(options, name),
            _kind(hint),
            documentation(type(options))[name],
        )
        for section in SECTIONS
        for options in [getattr(config, section)]
        for name, hint in hints_of(type(options)).items()
    ]


@cache
def documentation(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass, those that it inherits included; a subclass's own
    text wins."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        body = ast.parse(inspect.getsource(owner)).body[0].body
        for field, after in itertools.pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                texts[field.target.id] = " ".join(after.value.value.split())
    return texts


def _kind(hint: Any) -> str:
    kind, bound, optional = parts_of(hint)
    if typing.get_origin(kind) is Literal:
        text = "one of " + ", ".join(typing.get_args(kind))
    elif typing.get_origin(kind) is tuple:
        text = "numbers" if typing.get_args(kind)[0] is float else "texts"
    else:
        text = kind.__name__
    parts = [text, *([bound.expected] if bound else []), *(["or none"] if optional else [])]
    return ", ".join(parts)
