"""List the options of a configuration with their values, types and descriptions. Types and
descriptions are read from the code that defines the options."""

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
    """The name that `--set` accepts, such as `training.epochs`."""
    value: Any
    kind: str
    """The type and the bound, such as `int, at least 1`, or the choices, such as `one of
    arithmetic, geometric`."""
    text: str
    """The description."""


def options_of(config: Config) -> list[Option]:
    """Return all options of a configuration, in the order in which they are defined.

    Examples
    --------
    >>> from humanpref.config import load_config
    >>> options_of(load_config("prior"))[0].kind
    'float, 0, or 1/k for a whole number k from 2 to a million'
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
    """Return the description of each field of a dataclass: the string below the field in the source
    code. Inherited fields are included; a subclass may replace their descriptions."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        body = ast.parse(inspect.getsource(owner)).body[0].body
        for statements in itertools.pairwise(body):
            match statements:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    texts[name] = " ".join(text.split())
    return texts


def _kind(hint: Any) -> str:
    kind, bound, optional = parts_of(hint)
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        text = f"one of {', '.join(arguments)}"
    elif arguments:
        text = "numbers" if arguments[0] is float else "texts"
    else:
        text = kind.__name__
    return f"{text}{f', {bound.expected}' if bound else ''}{', or none' if optional else ''}"
