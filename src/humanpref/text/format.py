"""Formatters: pure functions from a row's conversation to labelled texts. Tokenisation and truncation come after them."""

from typing import NamedTuple

TURN_SEPARATOR = "\n\n"


class Branch(NamedTuple):
    """What one branch of the dual encoder reads."""

    prompt: str
    response: str


def branch(prompt: tuple[str, ...], response: tuple[str, ...]) -> Branch:
    """One side of a row: all turns of the prompt, then all turns of one response."""
    return Branch(TURN_SEPARATOR.join(prompt), TURN_SEPARATOR.join(response))
