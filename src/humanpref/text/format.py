"""Formatters: pure functions from a row's conversation to labelled texts. Tokenisation and
truncation come after them."""

from itertools import zip_longest
from typing import Any, NamedTuple

from humanpref.schema import TEXT_COLUMNS

PROMPT, A, B = 1, 2, 3
"""The parts of a row. Where a sequence holds one response only, that response is `A`, whichever
side it comes from."""


class Segment(NamedTuple):
    """One turn's text of one part."""

    part: int
    text: str


Turns = tuple[str, ...]
Sequence = tuple[Segment, ...]
"""What the model reads at once, in this order."""


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
    """Format the conversation with response A alone: prompt 1, answer 1, prompt 2, answer 2 …"""
    return _rounds((PROMPT, pair.prompt), (A, pair.response_a))


def dual(pair: Pair) -> list[Sequence]:
    """Format each response's conversation: two sequences."""
    return [answered(pair), answered(pair.swapped())]


def joint(pair: Pair) -> list[Sequence]:
    """Format both responses as one sequence: prompt 1, answer A 1, answer B 1, prompt 2 …"""
    return [_rounds((PROMPT, pair.prompt), (A, pair.response_a), (B, pair.response_b))]


def _rounds(*parts: tuple[int, Turns]) -> Sequence:
    """Interleave the turns; a turn that one side lacks is empty, and a conversation without turns
    has one empty round."""
    labels, turns = [part for part, _ in parts], [turns or ("",) for _, turns in parts]
    return tuple(
        Segment(label, text)
        for row in zip_longest(*turns, fillvalue="")
        for label, text in zip(labels, row, strict=True)
    )
