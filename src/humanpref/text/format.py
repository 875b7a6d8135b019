"""Formatters: pure functions from a row's conversation to labelled texts. Tokenisation and
truncation come after them."""

from itertools import zip_longest
from typing import NamedTuple

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


def dual(prompt: Turns, response_a: Turns, response_b: Turns) -> tuple[Sequence, Sequence]:
    """Two sequences, one per response, round by round: prompt 1, answer 1, prompt 2, answer 2 …"""
    return _rounds((PROMPT, prompt), (A, response_a)), _rounds((PROMPT, prompt), (A, response_b))


def joint(prompt: Turns, response_a: Turns, response_b: Turns) -> tuple[Sequence]:
    """One sequence with both responses, round by round: prompt 1, answer A 1, answer B 1, prompt 2
    …"""
    return (_rounds((PROMPT, prompt), (A, response_a), (B, response_b)),)


def _rounds(*parts: tuple[int, Turns]) -> Sequence:
    """Interleave the turns; a turn that one side lacks is empty, and a conversation without turns
    has one empty round."""
    labels, turns = [part for part, _ in parts], [turns or ("",) for _, turns in parts]
    return tuple(
        Segment(label, text)
        for row in zip_longest(*turns, fillvalue="")
        for label, text in zip(labels, row, strict=True)
    )
