"""Formatters: pure functions that turn a row's conversation into labeled texts, which are then
tokenized and truncated elsewhere."""

from itertools import zip_longest
from typing import Any, NamedTuple

from humanpref.schema import TEXT_COLUMNS

PROMPT, A, B = 1, 2, 3
"""The parts of a row. If a sequence holds only one response, that response is `A`, whichever side
it comes from."""


class Segment(NamedTuple):
    """The text of one turn of one part."""

    part: int
    text: str


Turns = tuple[str, ...]
Sequence = tuple[Segment, ...]
"""The texts that the model reads together, in this order."""


class Pair(NamedTuple):
    """A conversation with two responses, turn by turn."""

    prompt: Turns
    response_a: Turns
    response_b: Turns

    def swapped(self) -> "Pair":
        """Exchange A and B.

        Examples
        --------
        >>> Pair(("Hi",), ("Hello.",), ("Go away.",)).swapped().response_a
        ('Go away.',)
        """
        return Pair(self.prompt, self.response_b, self.response_a)


def pairs_in(frame: Any) -> list[Pair]:
    """List the rows of a pairs frame."""
    return [Pair(*row) for row in zip(*(frame[column] for column in TEXT_COLUMNS), strict=True)]


def answered(pair: Pair) -> Sequence:
    """Format the conversation with response A only: prompt 1, answer 1, prompt 2, answer 2 …"""
    return _rounds((PROMPT, pair.prompt), (A, pair.response_a))


def dual(pair: Pair) -> list[Sequence]:
    """Format two sequences: the conversation with response A only and with response B only."""
    return [answered(pair), answered(pair.swapped())]


def joint(pair: Pair) -> list[Sequence]:
    """Format both responses as one sequence: prompt 1, answer A 1, answer B 1, prompt 2 …"""
    return [_rounds((PROMPT, pair.prompt), (A, pair.response_a), (B, pair.response_b))]


def _rounds(*parts: tuple[int, Turns]) -> Sequence:
    """Interleave the turns. A turn that one side lacks is empty, and a conversation without turns
    has one empty round."""
    labels, turns = [part for part, _ in parts], [turns or ("",) for _, turns in parts]
    return tuple(
        Segment(label, text)
        for row in zip_longest(*turns, fillvalue="")
        for label, text in zip(labels, row, strict=True)
    )
