"""Split texts into windows of token ids that an encoder can read. Special tokens surround every
window, and an instruction may precede it.

Windows have nearly equal lengths. A very long text keeps only its head and its tail, in equal
parts.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

import numpy as np

from humanpref.schema import InputError
from humanpref.text.tokens import BATCH_TEXTS, cut_middle, find, text_ids

LEAST_ROOM = 8
"""Minimum number of tokens that an instruction must leave for a window's own text."""


class Passage(NamedTuple):
    """A text to embed, and the instruction before it (empty for none)."""

    text: str
    instruction: str = ""


class Rows(NamedTuple):
    """The windows of several passages, one after another.

    Attributes
    ----------
    ids : list of list of int
        Token ids of each window.
    counts : list of list of int
        For each passage, the number of its text's tokens in each of its windows.
    leads : ndarray
        (windows,) int64. Number of tokens at a window's start that belong to the instruction,
        including the special tokens before it; 0 without an instruction.
    """

    ids: list[list[int]]
    counts: list[list[int]]
    leads: np.ndarray


class Splitter:
    """Splits passages into windows with one tokenizer.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    max_length : int
        Maximum number of tokens per window, instruction and special tokens included.
    lower_case : bool
        Whether instructions and texts are lower-cased.
    instructions : iterable of str
        All instructions that a passage may have.

    Attributes
    ----------
    before, after : list of int
        The special tokens before and after a text.

    Raises
    ------
    InputError
        If an instruction contains a special token, or leaves almost no room for a text.
    """

    def __init__(
        self, tokenizer: Any, max_length: int, lower_case: bool, instructions: Iterable[str]
    ) -> None:
        self._tokenizer, self._max_length, self._lower_case = tokenizer, max_length, lower_case
        ids, text = (
            tokenizer("a", add_special_tokens=special).input_ids for special in (True, False)
        )
        start = find(ids, text, 0)
        self.before, self.after = list(ids[:start]), list(ids[start + len(text) :])
        self._instructions = {each: self._checked(each) for each in ("", *instructions)}

    def token_ids(self, texts: list[str]) -> Iterable[list[int]]:
        """Yield the token ids of each text."""
        for start in range(0, len(texts), BATCH_TEXTS):
            part = texts[start : start + BATCH_TEXTS]
            yield from text_ids(list(map(self._cased, part)), self._tokenizer)

    def rows(self, passages: list[Passage], max_windows: int) -> Rows:
        """Return the windows of the passages, at most `max_windows` per passage. A text without
        tokens has no windows."""
        ids, counts, leads = [], [], []
        for instruction, shared, text in self._parts(passages):
            pieces = split(text, self._room(instruction), max_windows)
            for i, piece in enumerate(pieces):
                start = instruction if i else instruction[:shared]
                ids.append([*self.before, *start, *piece, *self.after])
            lead = len(self.before) + len(instruction) if instruction else 0
            leads += [lead] * len(pieces)
            counts.append(list(map(len, pieces)))
        return Rows(ids, counts, np.array(leads, dtype=np.int64))

    def is_cut(self, passages: list[Passage], max_windows: int) -> np.ndarray:
        """Return a mask, (n,) bool, of the passages that do not fit into `max_windows` windows."""
        parts = self._parts(passages)
        return np.array([len(text) > self._room(own) * max_windows for own, _, text in parts], bool)

    def _parts(self, passages: list[Passage]) -> Iterator[tuple[list[int], int, list[int]]]:
        """Tokenize each passage's instruction alone, and the instruction joined with the text.
        Yield the instruction's ids, the number of leading ids that are the same in both, and the
        remaining ids of the joined text."""
        joined = [instruction + text for text, instruction in passages]
        for passage, ids in zip(passages, self.token_ids(joined), strict=True):
            instruction = self._instructions[passage.instruction]
            # When a text follows, the instruction's last token can change, as in ":What".
            same = takewhile(lambda pair: pair[0] == pair[1], zip(instruction, ids, strict=False))
            shared = sum(1 for _ in same)
            yield instruction, shared, ids[shared:]

    def _room(self, instruction: list[int]) -> int:
        return self._max_length - len(self.before) - len(instruction) - len(self.after)

    def _cased(self, text: str) -> str:
        return text.lower() if self._lower_case else text

    def _checked(self, instruction: str) -> list[int]:
        """Return an instruction's token ids, or raise InputError."""
        (ids,) = self.token_ids([instruction])
        if ids != self._tokenizer(self._cased(instruction), add_special_tokens=False).input_ids:
            raise InputError(
                f"instruction {instruction!r}: expected plain text, but it contains one of the "
                "tokenizer's special tokens"
            )
        if ids and self._room(ids) < LEAST_ROOM:
            raise InputError(
                f"option model.max_length: the instruction {instruction!r} leaves "
                f"{self._room(ids)} of the {self._max_length} tokens for a text; expected at "
                f"least {LEAST_ROOM}"
            )
        return ids


def split(ids: list[int], room: int, max_windows: int) -> list[list[int]]:
    """Split ids into at most `max_windows` windows of at most `room` ids each; the windows' lengths
    differ by at most one. If the ids do not fit, the middle ones are dropped.

    For example, if `room` is 254, 300 ids give two windows of 150, not one of 254 and an
    uninformative remainder.
    """
    kept = cut_middle(ids, room * max_windows)
    count = -(-len(kept) // room)
    bounds = [len(kept) * i // count for i in range(count + 1)] if count else []
    return [kept[start:end] for start, end in pairwise(bounds)]
