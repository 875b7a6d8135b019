"""Formatters: pure functions that turn a row's conversation into labeled texts. Tokenization and
truncation happen elsewhere."""

from itertools import zip_longest
from typing import Any, NamedTuple

from humanpref.schema import TEXT_COLUMNS

PROMPT, A, B = 1, 2, 3
"""The parts of a row. If a sequence holds only one response, that response is labeled `A`, even if
it is response B of the row."""


class Segment(NamedTuple):
    """One turn of the prompt or of a response, labeled with its part (`PROMPT`, `A` or `B`)."""

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
        """Return the pair with A and B exchanged.

        Examples
        --------
        >>> Pair(("Hi",), ("Hello.",), ("Go away.",)).swapped().response_a
        ('Go away.',)
        """
        return Pair(self.prompt, self.response_b, self.response_a)


def pairs_in(frame: Any) -> list[Pair]:
    """Return the rows of a pairs frame as a list of pairs."""
    return [Pair(*row) for row in zip(*(frame[column] for column in TEXT_COLUMNS), strict=True)]


def answered(pair: Pair) -> Sequence:
    """Format the conversation with response A only: prompt 1, answer 1, prompt 2, answer 2 …"""
    return _rounds((PROMPT, pair.prompt), (A, pair.response_a))


def dual(pair: Pair) -> list[Sequence]:
    """Format two sequences: the conversation with response A only, and with response B only."""
    return [answered(pair), answered(pair.swapped())]


def joint(pair: Pair) -> list[Sequence]:
    """Format both responses as one sequence: prompt 1, answer A 1, answer B 1, prompt 2 …"""
    return [_rounds((PROMPT, pair.prompt), (A, pair.response_a), (B, pair.response_b))]


def _rounds(*parts: tuple[int, Turns]) -> Sequence:
    """Interleave the turns of the parts. If a part has fewer turns than another, its missing turns
    are empty. A part without turns has one empty turn."""
    labels, turns = [part for part, _ in parts], [turns or ("",) for _, turns in parts]
    return tuple(
        Segment(label, text)
        for row in zip_longest(*turns, fillvalue="")
        for label, text in zip(labels, row, strict=True)
    )
